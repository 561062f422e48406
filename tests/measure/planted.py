"""Records of studies whose truth is planted: every column that a measure reads, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from anomia.records import SCHEMA

VOCABULARY = 1_000
BEAMS, SAMPLES = 5, 10
OPTIONS = ("choice", "choice_hard", "choice_passage", "choice_no_question")


class Damage(NamedTuple):
    """What an arm lost: shares of base's right answers in open and in choice; rank where gold goes when unsaid."""

    open: float = 0.0
    choice: float = 0.0
    rank: int = 3
    reached: float = 0.6
    seed: int = 1


def study_records(
    arms: Mapping[str, Damage],
    *,
    languages: Sequence[str] = ("english",),
    items: int = 200,
    passage_items: int = 1,
    open_accuracy: float = 0.55,
    choice_accuracy: float = 0.92,
    seed: int = 0,
    sample_seeds: Sequence[int] = (42,),
    oracle_limit: int = 100,
) -> pl.DataFrame:
    """Rows of base and of each arm, in the order of `RunFolder.records`."""
    frames = []
    for number, language in enumerate(languages):
        generator = np.random.default_rng([seed, number])
        base_open = generator.random(items) < open_accuracy
        base_choice = {name: generator.random(items) < choice_accuracy for name in OPTIONS}
        common = {
            "dataset": "planted",
            "language": language,
            "item_id": [f"{language}-{n}" for n in range(items)],
            "index": np.arange(items),
            "passage_id": [f"{language}-{n // passage_items}" for n in range(items)],
            "sample_seeds": [[s for s in sample_seeds for _ in range(SAMPLES)]] * items,
        }
        frames.append(_rows("base", common, base_open, base_choice, Damage(), oracle_limit, generator))
        for name, damage in arms.items():
            chance = np.random.default_rng([damage.seed, seed, number])
            arm_open = base_open & (chance.random(items) >= damage.open)
            kept = chance.random(items) >= damage.choice
            arm_choice = {option: right & kept for option, right in base_choice.items()}
            frames.append(_rows(name, common, arm_open, arm_choice, damage, oracle_limit, chance))
    return pl.concat(frames).sort("arm", "dataset", "language", "index")


def _rows(
    arm: str,
    common: Mapping[str, Any],
    opened: np.ndarray,
    chosen: Mapping[str, np.ndarray],
    damage: Damage,
    oracle_limit: int,
    generator: np.random.Generator,
) -> pl.DataFrame:
    n = len(opened)
    reached = opened | (generator.random(n) < damage.reached * 0.5)
    rank = np.where(opened, 1, damage.rank)
    seeds = len(common["sample_seeds"][0])
    values: dict[str, Any] = {
        "arm": arm,
        **common,
        "question": "?",
        "gold": "gold",
        "control": "control",
        "finite": True,
        "prompt_tokens": 100,
        "truncated": False,
        "gold_truncated": False,
        "boundary_mismatch": False,
        "unclosed_thinking": False,
        "string_presence": 0.9,
        "open_text": ["gold" if right else "other" for right in opened],
        "open_tokens": 3,
        "open_correct": opened,
        "open_em": opened,
        "open_f1": opened.astype(float),
        "open_degenerate": False,
        "cued_correct": opened | (generator.random(n) < 0.5),
        "cued_contains": True,
        "choice_correct_any": chosen["choice"],
        "gold_log_prob": np.where(opened, -1.0, -6.0),
        "gold_log_prob_best": np.where(opened, -1.0, -6.0),
        "tail_mass": 0.01,
        "top_tokens": [["a", "b"]] * n,
        "top_log_probs": [[-0.5, -1.5 - (arm != "base")]] * n,
    }
    for name in ("distractors_only", "unrelated"):
        values[f"{name}_correct"] = False
    values["zero_shot_correct"] = opened
    values["one_shot_correct"] = opened | (generator.random(n) < 0.3)
    for name, right in chosen.items():
        values[f"{name}_correct"] = right
        values[f"{name}_correct_per_token"] = right
        values[f"{name}_correct_per_byte"] = right
        values[f"{name}_scores"] = [
            [-1.0, -2.0, -3.0, -4.0] if ok else [-2.0, -1.0, -3.0, -4.0] for ok in right
        ]
    for place, where in {"gold": rank, "gold_distinct": rank, "control": rank + 40, "control_distinct": rank + 40}.items():  # fmt: skip
        values[f"{place}_rank"] = where
        values[f"{place}_rank_ties"] = 0
        values[f"{place}_margin"] = np.log(where)
        values[f"{place}_token_log_prob"] = -np.log(where)
    if arm != "base":
        values["kl_from_base"] = generator.gamma(1.0, 0.2, n)
        values["top1_agrees"] = opened
    for name, count in (("beams", BEAMS), ("samples", seeds)):
        for which, hit in (("correct", reached), ("control", np.zeros(n, dtype=bool))):
            lists = [[bool(ok)] + [False] * (count - 1) if i < oracle_limit else None for i, ok in enumerate(hit)]  # fmt: skip
            values[f"{name}_{which}"] = lists
    columns = {
        name: pl.Series(name, _column(values.get(name), n), dtype=kind, strict=False)
        for name, kind in SCHEMA.items()
    }
    return pl.DataFrame(columns)


def _column(value: Any, n: int) -> Any:
    return value if isinstance(value, list | np.ndarray) else [value] * n
