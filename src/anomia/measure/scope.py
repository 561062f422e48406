"""What base's answers allow us to conclude: in which languages, and which kind of options shows recognition.

Both follow from base's answers alone, so they are the same for every arm of a run.

*Recognised* means that the question makes the model pick the answer. Options test this only if they can't be told
apart without the question. In extractive question answering, the gold answer is nearly always the only standard option
that the passage contains, so picking it needs no question. These ways are tried in order, and the first that qualifies
decides the verdict (`Scope.decided_by`):

1. `choice`: standard options, if base picks gold at least `EASY` more often than a search for the options in the
   passage finds it, and than base itself picks it without the question.
2. `choice_passage`: options of the same kind from the same passage, if base is at least `EASY` better with the question
   than without it.
3. `choice_passage_pmi`, 4. `choice_pmi`: the score with the question − the score without it (pointwise mutual
   information, Holtzman et al. 2021), which a bias towards an option can't raise.

Each way needs base at least 10 points above guessing, on at least half of the items. The advantage over each control
must be significant: the interval of the paired difference is above 0, so a base that doesn't need the question
qualifies in only one of forty runs, however small they are. Without the control's answers a way doesn't qualify. If
none does, standard options decide, and the word is *picked*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import polars as pl

from anomia.measure.drops import above_floor
from anomia.measure.fates import FEWEST_BOTH_CORRECT
from anomia.measure.frame import RECOGNITION, Floats, known
from anomia.measure.paired import paired_difference
from anomia.probes import OPTION_KINDS
from anomia.words import percent

# Base must be at least this much better than a control that doesn't need the question.
EASY = 0.10
LABELS = {kind.probe: kind.long for kind in OPTION_KINDS if kind.decides}
LABELS |= {f"{name}_pmi": f"{label} under PMI scoring" for name, label in reversed(LABELS.items())}

Word = Literal["recognised", "picked"]


class Scope(NamedTuple):
    """What pooled figures and overall verdicts cover, and which options decide verdicts."""

    languages: tuple[str, ...]
    excluded: tuple[str, ...]
    """Languages in which base is too weak."""
    decided_by: str
    word: Word
    why: str


def has_formats(records: pl.DataFrame) -> bool:
    """Whether open or choice was asked at all, not only long answers. Some tasks have scores, and nothing is right."""
    asked = ("open_text", "open_correct", "choice_correct")
    return any(records[name].null_count() < len(records) for name in asked)


def scope_of(records: pl.DataFrame, *, base: str = "base") -> Scope:
    """The scope of a run. records: from `prepare`."""
    rows = records.filter(pl.col("arm") == base)
    everything = sorted(records["language"].unique())
    strong = [name for name in everything if _is_strong(rows.filter(pl.col("language") == name), "choice")]
    here = rows.filter(pl.col("language").is_in(strong)) if strong else rows
    reasons: list[str] = []
    for name in LABELS:
        refusal = _refusal(here, name)
        if refusal:
            reasons.append(f"{LABELS[name]} {refusal}")
            continue
        languages = [
            each
            for each in strong
            if name == "choice" or _is_strong(here.filter(pl.col("language") == each), name)
        ]
        if strong and not languages:
            reasons.append(f"{LABELS[name]} leave base too weak in every language")
            continue
        languages = languages or everything
        return Scope(
            tuple(languages),
            _rest(everything, languages),
            name,
            "recognised",
            _why(name, reasons, "recognised", strong if reasons and strong != languages else ()),
        )
    languages = strong or everything
    return Scope(
        tuple(languages), _rest(everything, languages), "choice", "picked", _why("choice", reasons, "picked")
    )


def _is_strong(rows: pl.DataFrame, name: str) -> bool:
    """Whether base is far enough above the floor in open and in one kind of options."""
    way = RECOGNITION[name]
    opened, chosen = (
        known(rows, [column])[column].cast(pl.Float64) for column in ("open_correct", way.column)
    )
    if opened.is_empty() or chosen.is_empty():
        return False
    floor, open_floor = (
        _mean(known(rows, [way.column])[way.floor]),
        _mean(known(rows, ["open_correct"])["open_floor"]),
    )
    return above_floor(_mean(opened), open_floor) and above_floor(_mean(chosen), floor)


def _refusal(rows: pl.DataFrame, name: str) -> str | None:
    """Why options don't show recognition, as the rest of a sentence; None if they do."""
    way = RECOGNITION[name]
    part = known(rows, [way.column])
    if len(part) < max(FEWEST_BOTH_CORRECT, len(rows) / 2):
        return "were not asked of enough items"
    accuracy, floor = _mean(part[way.column].cast(pl.Float64)), _mean(part[way.floor])
    if not above_floor(accuracy, floor):
        return f"leave base at {percent(accuracy)}, less than 10 points above guessing ({percent(floor)})"
    if way.scoring == "pmi":
        return None
    controls = {"without the question": f"{way.kind}_no_question_correct"}
    if way.kind == "choice":
        controls["by searching the passage"] = "string_presence"
    for label, column in controls.items():
        both = known(part, [column])
        if len(both) < max(FEWEST_BOTH_CORRECT, len(part) / 2):
            return f"were not tried {label}"
        with_it, without = (both[each].cast(pl.Float64).to_numpy() for each in (way.column, column))
        if not above_floor(float(with_it.mean()), float(without.mean()), margin=EASY):
            return f"do not need the question: {_picked(label, without, with_it)}"
        more = paired_difference(with_it, without, both["passage"].to_numpy())
        if more is None or more.low <= 0:
            return f"may not need the question: {_picked(label, without, with_it)}, too few items to tell"
    return None


def _picked(label: str, without: Floats, with_it: Floats) -> str:
    return (
        f"gold is picked {label} in {percent(float(without.mean()))} of items, with it in "
        f"{percent(float(with_it.mean()))}"
    )


def _why(name: str, reasons: list[str], word: Word, over: Sequence[str] = ()) -> str:
    """Which options decided, and why none before them did. over: the reasons' languages, if not the scope's."""
    if word == "picked":
        return (
            f"No kind of options shows recognition here ({'; '.join(reasons)}), so answers are called picked, not "
            "recognised."
        )
    if not reasons:
        return "Standard options decided: base needs the question to pick among them."
    across = f" (in {', '.join(over)})" if over else ""
    return f"{LABELS[name][0].upper()}{LABELS[name][1:]} decided, because {'; '.join(reasons)}{across}."


def _rest(everything: list[str], languages: list[str]) -> tuple[str, ...]:
    return tuple(name for name in everything if name not in languages)


def _mean(values: pl.Series) -> float:
    return float(values.mean())  # type: ignore[arg-type]  # a mean of numbers
