"""The items of a run as the explorer reads them: an index of all rows, and single whole items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from anomia.compress.spec import is_null
from anomia.errors import StudyError
from anomia.items.languages import language_code
from anomia.items.prompts import (
    PLAIN,
    PROMPTS,
    Templates,
    option_list,
    read_templates,
    write_prompt,
)
from anomia.measure.between import BASE
from anomia.measure.fates import FATES
from anomia.measure.recognition import with_fates
from anomia.probes import (
    BY_NAME,
    CHOICES,
    CONTINUATION,
    FORMATS,
    GENERATED,
    GRADE,
    LADDER,
    NO_QUESTION,
    OPTION_KINDS,
    ORACLES,
    OWN_COLUMN,
    OWN_GOLD,
    Probe,
    long,
    short,
)
from anomia.probes import PROBES as TABLE
from anomia.report.reference import to_read

# Everything with its own verdict, in the order in which the page lists it.
PROBES = (
    *(name for name in LADDER if name in BY_NAME or GRADE[name].probe),
    *(probe.name for probe in TABLE if probe.group in ("oracle", "example", "long")),
)
# Properties that may spoil an item, whatever a model answers.
FLAGS = {
    "gold_in_question": "The question contains an accepted answer.",
    "gold_over_limit": "Every accepted answer is longer than the output limit.",
}
# Answers to all prompts but the open one.
TEXTS = tuple(name for name in GENERATED if name != "open")
# Parts of items that are left out, in this order, if the items would make a page too large.
PARTS = (*reversed(ORACLES), "long answers", "answers to other prompts")
NOT_ASKED, WRONG, RIGHT = "012"
# Maximum lengths, in characters: of each text that is searched and listed, and of each text of an item.
LINE, LONGEST = 160, 20_000
# Characters that no question or passage can contain; they mark the places that the page fills in a template.
CONTEXT, QUESTION, CANDIDATE = "\ufdd0", "\ufdd1", "\ufdd2"


class ItemKey(NamedTuple):
    """An item of a run. run: an index from 0."""

    run: int
    dataset: str
    language: str
    item_id: str


def templates_of(study: Mapping[str, Any]) -> Templates | None:
    """The prompt templates of a run's study; None if they are not Anomia's, unknown, or not used."""
    if "imported" in (study.get("provenance") or {}) or study.get("probes") == [CONTINUATION]:
        return None
    try:
        return read_templates(dict(study.get("prompts") or {}))
    except (StudyError, TypeError, ValueError):
        return None


def prompt_templates(templates: Templates = PLAIN) -> dict[str, str]:
    """The prompts of `items/prompts.py` in a study's wording, with marks in place of passage, question and options."""
    marks = {
        "context": CONTEXT,
        "question": QUESTION,
        "candidate": CANDIDATE,
        "options": option_list([CANDIDATE]),
    }
    forms = {
        f"{form}{ending}": write_prompt(form, context, QUESTION, [CANDIDATE], templates=templates)
        for form in PROMPTS
        for context, ending in ((CONTEXT, ""), ("", "_bare"))
    }
    return marks | forms


def probe_words() -> dict[str, Any]:
    """What the page knows about probes.

    probes: by name, each probe's label and the options that it scores. formats: the formats that define similar items.
    asked: the prompts that are sent: their probes, their template, and the candidates they list.
    """
    asked: dict[tuple[str, str], list[Probe]] = {}
    for probe in TABLE:
        # A long answer is to the first prompt, whether or not it was asked for.
        if probe.prompt in PROMPTS and probe.by_default:
            asked.setdefault((probe.prompt, probe.candidates), []).append(probe)
    options = CHOICES | NO_QUESTION
    return {
        "probes": {
            name: {"label": long(name), "short": short(name), "options": options.get(name)} for name in PROBES
        },
        "formats": list(FORMATS),
        "asked": [
            {
                "label": "; ".join(probe.short for probe in probes),
                "probes": [probe.name for probe in probes],
                "prompt": prompt,
                "candidates": candidates,
            }
            for (prompt, candidates), probes in asked.items()
        ],
    }


def verdict_column(probe: str) -> str:
    """The column of records with the verdict of a probe or a grade."""
    return (BY_NAME.get(probe) or GRADE[probe]).column


def language_codes(languages: Iterable[str]) -> dict[str, str]:
    """The `lang` attribute of each language that has a code."""
    return {name: code for name in languages if (code := language_code(name))}


def graded(records: pl.DataFrame) -> pl.DataFrame:
    """Records with the columns for the index: `fate`, `rank`, `loop` and a verdict for each probe.

    rank: of the first token that no other option shares, else of the first token. loop: whether the open output loops.
    """
    absent = {*map(verdict_column, PROBES), "open_loop"} - {*map(verdict_column, ORACLES)}
    records = records.with_columns(
        pl.lit(None, dtype=pl.Boolean).alias(name) for name in sorted(absent - set(records.columns))
    )
    reached = {name: pl.col(verdict_column(name)).list.any() for name in ORACLES}
    verdicts = [
        pl.when(right.is_null())
        .then(pl.lit(NOT_ASKED))
        .otherwise(pl.when(right).then(pl.lit(RIGHT)).otherwise(pl.lit(WRONG)))
        .alias(f"verdict_{name}")
        for name in PROBES
        for right in (reached.get(name, pl.col(verdict_column(name))),)
    ]
    rank = pl.coalesce("gold_distinct_rank", "gold_rank").fill_null(0)
    texts = [name for name in ("open_text", f"{CONTINUATION}_text") if name in records.columns]
    said = pl.coalesce(texts).fill_null("").str.strip_chars().str.replace_all(r"\s*\n\s*", " ⏎ ")
    looped = [pl.col("open_loop")]
    if f"{CONTINUATION}_text" in records.columns:
        # An item that was not asked openly may be a prompt.
        answered = pl.col(f"{CONTINUATION}_text").is_not_null()
        looped.append(pl.when(answered).then(pl.col(f"{CONTINUATION}_loop_start").is_not_null()))
    loop = pl.coalesce(looped).fill_null(False).cast(pl.Int8).cast(pl.String)
    return with_fates(records).with_columns(*verdicts, rank=rank, loop=loop, said=said.str.slice(0, LINE))


def index(tables: Sequence[tuple[pl.DataFrame, pl.DataFrame]]) -> tuple[dict[str, Any], list[ItemKey]]:
    """The columns of all rows (one per arm and item), and the items that they refer to, in order.

    Args:
        tables: records and items of each run.
    """
    arms: list[list[Any]] = []
    items: dict[str, list[Any]] = {
        name: [] for name in ("run", "language", "id", "question", "gold", "said", "rank")
    }
    rows: dict[str, list[Any]] = {name: [] for name in ("item", "arm", "fate", "rank", "said")}
    before: dict[str, list[str]] = {name: [] for name in PROBES}
    after: dict[str, list[str]] = {name: [] for name in PROBES}
    languages: dict[str, int] = {}
    keys: list[ItemKey] = []
    loops: list[str] = []
    any_loops = False
    for run, (records, _) in enumerate(tables):
        frame = graded(records)
        any_loops |= any(
            name in records.columns and records[name].null_count() < len(records)
            for name in ("open_loop", f"{CONTINUATION}_text")
        )
        base = frame.filter(pl.col("arm") == "base").sort("dataset", "language", "index")
        numbers: dict[tuple[str, str, str], int] = {}
        for row in base.iter_rows(named=True):
            key = ItemKey(run, row["dataset"], row["language"], row["item_id"])
            numbers[key[1:]] = len(keys)
            keys.append(key)
            language = languages.setdefault(row["language"], len(languages))
            values = (run, language, row["item_id"], clip(row["question"], 4 * LINE), clip(row["gold"], LINE))
            for name, value in zip(items, (*values, row["said"], row["rank"]), strict=True):
                items[name].append(value)
            for name in PROBES:
                before[name].append(row[f"verdict_{name}"])
        for arm in to_read(frame["arm"].unique(maintain_order=True)):
            if arm == "base":
                continue
            arms.append([run, arm])
            mine = frame.filter(pl.col("arm") == arm).sort("dataset", "language", "index")
            for row in mine.iter_rows(named=True):
                number = numbers.get((row["dataset"], row["language"], row["item_id"]))
                if number is None:
                    continue
                fate = FATES.index(row["fate"]) if row["fate"] else len(FATES)
                for name, value in zip(
                    rows, (number, len(arms) - 1, fate, row["rank"], row["said"]), strict=True
                ):
                    rows[name].append(value)
                loops.append(row["loop"])
                for name in PROBES:
                    after[name].append(row[f"verdict_{name}"])
    found = {
        "arms": arms,
        "languages": list(languages),
        "items": items,
        "rows": rows,
        "loops": "".join(loops) if any_loops else None,
        "before": {name: "".join(column) for name, column in before.items()},
        "after": {name: "".join(column) for name, column in after.items()},
    }
    return found, keys


def item_whole(
    item: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], *, without: Sequence[str] = ()
) -> dict[str, Any]:
    """One item with the answers of base and every arm.

    Args:
        item: a row of `ITEM_SCHEMA`.
        answers: rows of `SCHEMA`, one per arm, in the order of the study.
        without: parts from `PARTS` that are left out to save space.
    """
    base: Mapping[str, Any] = next((row for row in answers if row["arm"] == BASE), {})
    return {
        "context": clip(item["context"]),
        "question": clip(item["question"]),
        "answers": [clip(text) for text in item["answers"]],
        "control": clip(item["control"]),
        "options": {
            kind.name: _clipped((base if kind.of_base else item).get(kind.column)) for kind in OPTION_KINDS
        },
        **({"own": clip(base[OWN_GOLD])} if base.get(OWN_COLUMN) else {}),
        "flags": [text for name, text in FLAGS.items() if any(row.get(name) for row in answers)],
        "candidates": {"unrelated": _clipped(item["unrelated"])},
        "answered": [_answer(row, without) for row in sorted(answers, key=lambda row: is_null(row["arm"]))],
    }


def _answer(row: Mapping[str, Any], without: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "arm": row["arm"],
        "finite": row["finite"],
        "cut": row["truncated"],
        "seen": row.get("context_characters"),
        "said": [clip(row["open_text"]), row["open_correct"], row.get("open_strict"), row.get("open_loop")],
        "pick": {
            name: [_scores(row.get(f"{name}_scores")), row.get(f"{name}_correct")]
            for name in (*CHOICES, *NO_QUESTION)
            if name in CHOICES or row.get(f"{name}_scores") is not None
        },
        "token": [row["gold_first_token"], row["gold_rank"], row["gold_rank_ties"], row["gold_distinct_token"],
                  row["gold_distinct_rank"], _rounded(row["gold_log_prob"])],
        "top": [_clipped(row["top_tokens"]), _scores(row["top_log_probs"])],
    }  # fmt: skip
    if PARTS[-1] not in without:
        found["texts"] = {
            name: [clip(text), row[verdict_column(name)]]
            for name in TEXTS
            if (text := row.get(BY_NAME[name].text_column)) is not None
        }
    if PARTS[-2] not in without and row.get(f"{CONTINUATION}_pieces") is not None:
        found["long"] = _long(row)
    found["reached"] = {
        name: [_clipped(texts), _bits(row[f"{name}_correct"]), _bits(row[f"{name}_control"])]
        for name in ORACLES
        if name not in without and (texts := row.get(BY_NAME[name].text_column)) is not None
    }
    return found


def _long(row: Mapping[str, Any]) -> dict[str, Any]:
    """A long answer as pieces of text, one per token, and the ranks of base's tokens in this model."""
    of = {
        name: row.get(f"{CONTINUATION}_{name}")
        for name in ("pieces", "correct", "ended", "stopped", "loop_start", "divergence", "ranks")
    }
    return {
        "pieces": of["pieces"],
        "right": of["correct"],
        "ended": of["ended"],
        "stopped": of["stopped"] is not None,
        "loop": of["loop_start"],
        "differs": of["divergence"],
        "ranks": of["ranks"],
    }


def long_ending(row: Mapping[str, Any]) -> str:
    """How a long answer ends: `512 tokens, loops from token 80`."""
    words = [f"{len(row[f'{CONTINUATION}_ids'])} tokens"]
    if row[f"{CONTINUATION}_loop_start"] is not None:
        words.append(f"loops from token {row[f'{CONTINUATION}_loop_start']}")
        if row.get(f"{CONTINUATION}_stopped") is not None:
            words.append("stopped there")
    elif not row[f"{CONTINUATION}_ended"]:
        words.append("does not end")
    return ", ".join(words)


def clip(text: str | None, longest: int = LONGEST) -> str | None:
    """A text cut to a length that a page can handle; its end says how much was cut."""
    if text is None or len(text) <= longest:
        return text
    return f"{text[:longest]} […{len(text) - longest:,} more characters in the records]"


def _clipped(texts: Sequence[str] | None) -> list[str | None] | None:
    return None if texts is None else [clip(text) for text in texts]


def _scores(values: Sequence[float | None] | None) -> list[float | None] | None:
    return None if values is None else [_rounded(value) for value in values]


def _rounded(value: float | None) -> float | None:
    """Two decimals, and None for values that JSON can't represent."""
    return None if value is None or value != value or abs(value) == float("inf") else round(value, 2)


def _bits(values: Sequence[bool] | None) -> str:
    return "".join("1" if value else "0" for value in values or ())
