"""From the records of a run to its figures: one long table, each figure with its interval.

A row is (arm, measure, scope): scope is a language, `pooled` (all items as one) or `mean` (the
unweighted mean over languages). `docs/results.md` lists the measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from anomia.measure.bootstrap import Resampling, resample
from anomia.measure.drops import chance
from anomia.measure.fates import FATES, FateCounts, count_fates, dissociation, fates
from anomia.measure.quantities import Quantity, drop, everywhere_all, gap_quantity, normalized
from anomia.measure.rates import Estimate, rate

Bools = NDArray[np.bool_]
# Right or wrong by item: base's open, base's choice, the arm's open, the arm's choice.
Outcomes = tuple[Bools, Bools, Bools, Bools]

GENERATED = ("open", "cued", "distractors_only", "unrelated", "one_shot", "zero_shot")
CHOSEN = ("choice", "choice_hard", "choice_passage", "choice_no_question")
# Other ways to grade or to score the same replies.
VARIANTS = ("open_em", "cued_contains", "choice_correct_per_token", "choice_correct_per_byte")
POOLED, MEAN = "pooled", "mean"
# What a row of one arm is joined to the others by.
KEY = ["dataset", "language", "item_id"]


class Figure(NamedTuple):
    """One figure of one arm. `estimate` is None where it can't be given (too few items, base too weak)."""

    arm: str
    measure: str
    scope: str
    estimate: Estimate | None


class Fates(NamedTuple):
    """Counts of fates in one language, or `pooled`. options: which choice recognition was tested with."""

    arm: str
    options: str
    scope: str
    counts: FateCounts


class Diagnosis(NamedTuple):
    """Everything that is computed from one data set of a run."""

    figures: tuple[Figure, ...]
    fates: tuple[Fates, ...]


def diagnose(records: pl.DataFrame, *, base: str = "base") -> Diagnosis:
    """Computes all figures of all arms against base.

    Args:
        records: rows of `anomia.records.SCHEMA`, of one data set.
        base: the arm that the others are compared with.
    """
    records = records.with_columns(passage=pl.Series(parallel_passages(records)))
    figures: list[Figure] = []
    counts: list[Fates] = []
    before = records.filter(pl.col("arm") == base)
    for arm in records["arm"].unique(maintain_order=True):
        rows = records.filter(pl.col("arm") == arm)
        figures += _accuracies(arm, rows)
        if arm != base:
            pairs = before.join(rows, on=KEY, suffix="_arm", maintain_order="left")
            figures += _against_base(arm, pairs)
            counts += _fates(arm, pairs)
            figures += _dissociation(arm, pairs)
    return Diagnosis(tuple(figures), tuple(counts))


def with_fates(records: pl.DataFrame, *, base: str = "base") -> pl.DataFrame:
    """The records with a column `fate`: null for base, and where base fails the item in open or in choice."""
    verdicts = [*KEY, "open_correct", "choice_correct"]
    joined = records.join(
        records.filter(pl.col("arm") == base).select(verdicts), on=KEY, how="left", suffix="_base", maintain_order="left"
    )  # fmt: skip
    known = joined.select(
        pl.all_horizontal(
            pl.col(
                "open_correct", "choice_correct", "open_correct_base", "choice_correct_base"
            ).is_not_null(),
            pl.col("arm") != base,
        )
    ).to_series()
    columns = ("open_correct_base", "choice_correct_base", "open_correct", "choice_correct")
    index = fates(*(joined[column].fill_null(False).to_numpy() for column in columns))
    names = [FATES[i] if i >= 0 and k else None for i, k in zip(index, known, strict=True)]
    return records.with_columns(fate=pl.Series(names, dtype=pl.String))


def _accuracies(arm: str, rows: pl.DataFrame) -> Iterator[Figure]:
    columns = {name: f"{name}_correct" for name in (*GENERATED, *CHOSEN)} | {name: name for name in VARIANTS}
    columns |= {"string_presence": "string_presence", "open_f1": "open_f1"}
    for measure, column in columns.items():
        graded = rows.filter(pl.col(column).is_not_null())
        if graded.is_empty():
            continue
        by_language = {}
        for language, part in _languages(graded):
            by_language[language] = rate(_floats(part[column]), part["passage"].to_numpy())
            yield Figure(arm, f"accuracy/{measure}", language, by_language[language])
        pooled = rate(_floats(graded[column]), graded["passage"].to_numpy())
        yield Figure(arm, f"accuracy/{measure}", POOLED, pooled)


def _against_base(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """Drops, normalized drops and gaps; measures asked of the same items share their draws."""
    by_items: dict[bytes, tuple[pl.DataFrame, dict[str, Quantity]]] = {}
    for measure, needed, build in _comparisons():
        columns = [f"{name}_correct{side}" for name in needed for side in ("", "_arm")]
        known = pairs.select(pl.all_horizontal(pl.col(columns).is_not_null())).to_series()
        if not known.any():
            continue
        part, quantities = by_items.setdefault(known.to_numpy().tobytes(), (pairs.filter(known), {}))
        quantities[measure] = build(part)
    for part, quantities in by_items.values():
        draws: Resampling = resample(part["language"].to_list(), part["passage"].to_numpy())
        for measure, found in everywhere_all(quantities, draws).items():
            for language, estimate in found.by_language.items():
                yield Figure(arm, measure, language, estimate)
            yield Figure(arm, measure, POOLED, found.pooled)
            yield Figure(arm, measure, MEAN, found.mean)


def _comparisons() -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Measure, the probes it needs, and how it is built from the pairs of base and arm."""
    quarter = chance(4)
    floors = [(name, name, 0.0) for name in GENERATED] + [(name, name, quarter) for name in CHOSEN]
    for name, probe, floor in [*floors, ("cued_chance", "cued", quarter)]:
        if name == probe:
            yield f"drop/{name}", (probe,), lambda part, p=probe: drop(*_sides(part, p))
        yield (
            f"normalized_drop/{name}",
            (probe,),
            lambda part, p=probe, f=floor: normalized(*_sides(part, p), floor=f),
        )
    for name in ("choice", "choice_hard", "choice_passage", "cued"):
        floor = 0.0 if name == "cued" else quarter
        yield (
            f"gap/{name}",
            ("open", name),
            lambda part, p=name, f=floor: gap_quantity(*_sides(part, "open")[:2], *_sides(part, p), floor=f),
        )


def _fates(arm: str, pairs: pl.DataFrame) -> Iterator[Fates]:
    for options, part in _by_options(pairs):
        outcomes = _outcomes(part, options)
        for language, rows in _languages(part.with_row_index("row")):
            at = rows["row"].to_numpy()
            yield Fates(arm, options, language, count_fates(*_at(outcomes, at)))
        yield Fates(arm, options, POOLED, count_fates(*outcomes))


def _dissociation(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    for options, part in _by_options(pairs):
        outcomes = _outcomes(part, options)
        passages = part["passage"].to_numpy()
        for language, rows in _languages(part.with_row_index("row")):
            at = rows["row"].to_numpy()
            found = dissociation(*_at(outcomes, at), passages[at])
            yield Figure(arm, f"dissociation/{options}", language, found)
        yield Figure(arm, f"dissociation/{options}", POOLED, dissociation(*outcomes, passages))


def _by_options(pairs: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for options in ("choice", "choice_hard", "choice_passage"):
        columns = [f"{name}_correct{side}" for name in ("open", options) for side in ("", "_arm")]
        part = pairs.filter(pl.all_horizontal(pl.col(columns).is_not_null()))
        if not part.is_empty():
            yield options, part


def _at(outcomes: Outcomes, rows: NDArray[np.uint32]) -> Outcomes:
    base_open, base_choice, arm_open, arm_choice = outcomes
    return base_open[rows], base_choice[rows], arm_open[rows], arm_choice[rows]


def _outcomes(part: pl.DataFrame, options: str) -> Outcomes:
    before_open, arm_open = _sides(part, "open")[:2]
    before_choice, arm_choice = _sides(part, options)[:2]
    return before_open, before_choice, arm_open, arm_choice


def _sides(part: pl.DataFrame, probe: str) -> tuple[Bools, Bools, NDArray[np.int_]]:
    """Right or wrong in base and in the arm, and the passages."""
    return (
        part[f"{probe}_correct"].to_numpy().astype(bool),
        part[f"{probe}_correct_arm"].to_numpy().astype(bool),
        part["passage"].to_numpy(),
    )


def _languages(frame: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for (language,), part in sorted(frame.group_by(["language"], maintain_order=True)):
        yield str(language), part


def _floats(column: pl.Series) -> NDArray[np.float64]:
    return column.cast(pl.Float64).to_numpy()


def parallel_passages(records: pl.DataFrame) -> NDArray[np.int32]:
    """Passage numbers of all rows: [rows]; the passages of a parallel data set, which share question ids, are one."""
    passages = np.unique(records["passage_id"].to_numpy(), return_inverse=True)[1]
    items = np.unique(records["item_id"].to_numpy(), return_inverse=True)[1] + passages.max(initial=-1) + 1
    size = int(items.max(initial=0)) + 1
    links = coo_array((np.ones(len(items)), (passages, items)), shape=(size, size))
    component: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return component[passages]


def find(figures: Sequence[Figure], arm: str, measure: str, scope: str) -> Estimate | None:
    """The estimate of one figure, None where it isn't there or can't be given."""
    return next((f.estimate for f in figures if (f.arm, f.measure, f.scope) == (arm, measure, scope)), None)


def to_json(diagnosis: Diagnosis) -> Mapping[str, Any]:
    """Plain values for `results.json`."""
    return {
        "figures": [
            {
                "arm": figure.arm,
                "measure": figure.measure,
                "scope": figure.scope,
                **(figure.estimate._asdict() if figure.estimate else {"value": None}),
            }
            for figure in diagnosis.figures
        ],
        "fates": [
            {"arm": f.arm, "options": f.options, "scope": f.scope, **f.counts._asdict(), "both_correct": f.counts.both_correct}
            for f in diagnosis.fates
        ],
    }  # fmt: skip
