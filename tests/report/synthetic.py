"""Runs of any size with texts in nine scripts, without a model: what a report must bear."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from anomia.records import ITEM_SCHEMA, SCHEMA, write_rows

# First letter and number of letters of each script, and the characters of a passage as in TyDiQA's gold passages.
SCRIPTS = {
    "arabic": (0x0628, 35, 560),
    "bengali": (0x0995, 35, 700),
    "english": (0x0061, 26, 640),
    "korean": (0xAC00, 900, 300),
    "russian": (0x0430, 32, 640),
    "telugu": (0x0C15, 36, 640),
    "thai": (0x0E01, 44, 480),
    "greek": (0x03B1, 25, 640),
    "hindi": (0x0915, 37, 640),
}
VOCABULARY = 4_000


class Writer:
    """Text of one language: words of made-up letters, as often as Zipf has it."""

    def __init__(self, language: str, seed: int) -> None:
        first, letters, self.characters = SCRIPTS[language]
        self.random = random.Random(f"{language} {seed}")
        alphabet = [chr(first + n) for n in range(letters)]
        self.words = [
            "".join(self.random.choices(alphabet, k=self.random.randint(2, 9))) for _ in range(VOCABULARY)
        ]
        self.weights = np.cumsum(1 / np.arange(1, VOCABULARY + 1)).tolist()

    def text(self, characters: int) -> str:
        words: list[str] = []
        while sum(map(len, words)) + len(words) < characters:
            words += self.random.choices(self.words, cum_weights=self.weights, k=4)
        return " ".join(words)[:characters].strip()

    def answer(self) -> str:
        return " ".join(self.random.choices(self.words, k=self.random.randint(1, 3)))


def write_run(
    folder: Path,
    *,
    languages: Sequence[str] = tuple(SCRIPTS),
    items: int = 200,
    arms: Sequence[str] = ("wanda:0.5", "sparsegpt:0.5"),
    oracle_limit: int = 100,
    study: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Writes the folder of a finished run."""
    questions: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for language in languages:
        writer = Writer(language, seed)
        for index in range(items):
            item = _item(writer, language, index)
            questions.append(item)
            records += [_row(writer, item, arm, oracle=index < oracle_limit) for arm in ("base", *arms)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(
        yaml.safe_dump({"base": "some/model", "arms": list(arms), "data": "demo", **(study or {}), "provenance": {"vocabulary": 260_000}})
    )  # fmt: skip
    write_rows(questions, folder / "items.parquet", ITEM_SCHEMA)
    write_rows(records, folder / "records" / "all.parquet")
    (folder / "noise.json").write_text(
        json.dumps({"items": 32, "batch_size": 8, "flips": {"open": 1, "choice": 0, "open_text": 3}})
    )
    return folder


def _item(writer: Writer, language: str, index: int) -> dict[str, Any]:
    gold = writer.answer()
    half = writer.characters // 2
    options = [gold, *(writer.answer() for _ in range(3))]
    return {
        "dataset": "demo",
        "language": language,
        "item_id": f"{language}-{index:04d}",
        "index": index,
        "passage_id": f"{language}-{index}",
        "context": f"{writer.text(half)} {gold} {writer.text(half)}",
        "question": writer.text(55) + "?",
        "answers": [gold],
        "options_standard": options,
        "options_hard": [gold, *(writer.answer() for _ in range(3))],
        "options_passage": [gold, *(writer.answer() for _ in range(3))],
        "unrelated": [writer.answer() for _ in range(4)],
        "control": options[1],
    }


def _row(writer: Writer, item: Mapping[str, Any], arm: str, *, oracle: bool) -> dict[str, Any]:
    draw = writer.random
    said, picked = draw.random() < (0.6 if arm == "base" else 0.25), draw.random() < 0.9
    gold = item["answers"][0]
    # Greedy answers copy from the passage or go round in circles; samples are new text.
    start = draw.randrange(max(1, len(item["context"]) - 90))
    rest = item["context"][start : start + 90]
    opened = f" {gold if said else writer.answer()}\n\n{rest}"
    row: dict[str, Any] = dict.fromkeys(SCHEMA)
    row |= {
        name: item[name]
        for name in ("dataset", "language", "item_id", "index", "passage_id", "question", "control")
    }
    row |= {
        "arm": arm, "gold": gold, "finite": True, "prompt_tokens": 300, "truncated": False,
        "context_characters": len(item["context"]), "gold_truncated": False, "boundary_mismatch": False,
        "unclosed_thinking": False, "string_presence": 1.0, "open_text": opened, "open_tokens": 32,
        "open_correct": said, "open_em": said, "open_f1": float(said), "open_degenerate": False,
        "cued_contains": picked, "choice_correct_any": picked,
        "gold_rank_best": 1, "gold_first_token": " ", "gold_distinct_token": gold[:3], "gold_log_prob": -draw.random() * 20,
        "top_tokens": [writer.words[draw.randrange(300)][:3] for _ in range(10)],
        "top_log_probs": sorted((-draw.random() * 8 for _ in range(10)), reverse=True), "tail_mass": 0.01,
        "kl_from_base": None if arm == "base" else 0.3, "top1_agrees": None if arm == "base" else said,
    }  # fmt: skip
    for name in ("cued", "distractors_only", "unrelated", "zero_shot", "one_shot"):
        row |= {
            f"{name}_text": f" {writer.answer()}\n{rest[: draw.randint(10, 90)]}",
            f"{name}_correct": draw.random() < 0.3,
        }
    for name, kind in (("choice", "standard"), ("choice_hard", "hard"), ("choice_passage", "passage"), ("choice_no_question", "standard")):  # fmt: skip
        options = item[f"options_{kind}"]
        scores = [-draw.random() * 20 for _ in options]
        scores[0 if picked else 1] = -0.1
        row |= {f"{name}_scores{unit}": scores for unit in ("", "_per_token", "_per_byte")}
        row |= {f"{name}_pick": options[0 if picked else 1]} | {
            f"{name}_correct{unit}": picked for unit in ("", "_per_token", "_per_byte")
        }
    rank = 1 if said else draw.randint(2, 5_000)
    for name in ("gold", "gold_distinct", "control", "control_distinct"):
        row |= {
            f"{name}_rank": rank,
            f"{name}_rank_ties": 0,
            f"{name}_token_log_prob": -2.0,
            f"{name}_margin": 1.0,
        }
    if oracle:
        row["beam_texts"] = [opened[: -6 * n or None] + writer.text(6 * n) if n else opened for n in range(5)]
        row["sample_texts"] = [" " + writer.text(draw.randint(40, 110)) for _ in range(10)]
        row["sample_seeds"] = [42] * 10
        row["beam_scores"] = [-0.1 * n for n in range(5)]
        row |= {"beams_correct": [said] * 5, "beams_control": [False] * 5}
        row |= {"samples_correct": [draw.random() < 0.1 for _ in range(10)], "samples_control": [False] * 10}
    return row


def hostile(records: pl.DataFrame, text: str) -> pl.DataFrame:
    """The records with a text in every column that holds texts of models or data sets."""
    texts = [
        name for name, kind in records.schema.items() if kind == pl.String and name not in ("arm", "dataset")
    ]
    return records.with_columns(
        pl.lit(text).alias(name) for name in texts if name not in ("language", "item_id")
    )
