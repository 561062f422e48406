"""Fates, transitions and dissociation of an arm under every way to test recognition; checks of only-picked items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomia.measure import measures
from anomia.measure.fates import (
    DISSOCIATED,
    FATES,
    FEWEST_BOTH_CORRECT,
    STATES,
    Fate,
    counts_of,
    dissociated,
    fate_expr,
    fates,
    followed,
    met,
    transitions,
)
from anomia.measure.figures import Fates, Figure, TransitionRow
from anomia.measure.frame import (
    CHECKS,
    KEY,
    MEAN,
    POOLED,
    RECOGNITION,
    Bools,
    Recognition,
    both,
    floats,
    known,
    right,
    scopes,
)
from anomia.measure.measures import Measure
from anomia.measure.rates import mean_rate, rate


class Recognised(NamedTuple):
    """Figures, counts of fates, and transitions between states."""

    figures: list[Figure]
    counts: list[Fates]
    transitions: list[TransitionRow]


def recognition(arm: str, pairs: pl.DataFrame) -> Recognised:
    """Fates and dissociation, by language, pooled, and as a mean over the languages that have a rate."""
    found = Recognised([], [], [])
    for way in RECOGNITION.values():
        part = known(pairs, both("open_correct", way.column))
        if len(part):
            _one_way(found, arm, way, part)
    found.figures.extend(checks(arm, pairs))
    return found


def _one_way(found: Recognised, arm: str, way: Recognition, part: pl.DataFrame) -> None:
    """Add what one way to test recognition gives. part: the pairs that it graded, one row per item."""
    columns = [right(part, column) for column in _columns(way.name)]
    passages, labels = part["passage"].to_numpy(), part["language"].to_numpy()
    pooled = part["pooled"].to_numpy()
    index = fates(*columns)
    enough = np.zeros(len(index), dtype=bool)
    excluded = []
    followed_by: dict[Measure, Fate] = {
        measures.fate_share(way.name, fate): fate for fate in (DISSOCIATED, *FATES)
    }
    for scope, mask in scopes(part):
        here = [column[mask] for column in columns]
        counted = mask & followed(index)
        found.counts.append(Fates(arm, way.name, scope, counts_of(index[mask])))
        found.transitions.extend(
            TransitionRow(arm, way.name, scope, state, *map(int, row))
            for state, row in zip(STATES, transitions(*here), strict=True)
        )
        given = counted.sum() >= FEWEST_BOTH_CORRECT
        for measure, fate in followed_by.items():
            estimate = rate(met(index[counted], fate), passages[counted]) if given else None
            found.figures.append(Figure(arm, measure, scope, estimate))
        if scope != POOLED and (not given or not pooled[mask].all()):
            excluded.append(scope)
        elif scope != POOLED:
            enough |= counted
    for measure, fate in followed_by.items():
        hits = met(index[enough], fate)
        found.figures.append(
            Figure(arm, measure, MEAN, mean_rate(hits, labels[enough], passages[enough]), tuple(excluded))
        )


def checks(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """Share of the choice-only items under standard options that are also picked under each check.

    `also_picked/no_question` and `also_picked/string` (picked without the question, or found by searching the passage)
    are evidence against recognition. `also_picked/passage` and `also_picked/pmi` (picked among options from the same
    passage, or by PMI) are evidence for it.
    """
    unsaid = dissociated(fate_index(pairs))
    for name, check in CHECKS.items():
        column = f"{check.column}_arm"
        part = pairs.filter(pl.Series(unsaid) & pl.col(column).is_not_null())
        values, passages = floats(part, column), part["passage"].to_numpy()
        for scope, mask in scopes(part):
            yield Figure(arm, measures.also_picked(name), scope, rate(values[mask], passages[mask]))


def groups(pairs: pl.DataFrame) -> dict[str, Bools]:
    """Masks of the groups that ranks and probabilities are reported for: all, base's failures, the fates: [items]."""
    index = fate_index(pairs)
    graded = pairs["open_correct"].is_not_null().to_numpy()
    masks = {"all": np.ones(len(index), dtype=bool), "base_fails": graded & ~right(pairs, "open_correct")}
    return masks | {name: met(index, name) for name in FATES}


def fate_index(pairs: pl.DataFrame, options: str = "choice") -> NDArray[np.int8]:
    """Fates under one way to test recognition, as indices into `FATES`; `NO_FATE` where there is none: [items]."""
    return pairs.select(fate_expr(*_columns(options))).to_series().to_numpy()


def with_fates(records: pl.DataFrame, *, base: str = "base") -> pl.DataFrame:
    """The records with a column `fate`, null for base and where base fails the item in open or in choice."""
    verdicts = ["open_correct", "choice_correct"]
    before = records.filter(pl.col("arm") == base).select(*KEY, *verdicts)
    after = records.select(*KEY, *(pl.col(name).alias(f"{name}_arm") for name in verdicts))
    joined = after.join(before, on=KEY, how="left", maintain_order="left")
    names = pl.col("fate").replace_strict(dict(enumerate(FATES)), default=None, return_dtype=pl.String)
    fate = joined.select(fate=fate_expr(*_columns("choice"))).select(names).to_series()
    return records.with_columns(fate=pl.when(pl.col("arm") != base).then(fate))


def _columns(options: str) -> list[str]:
    """Columns of verdicts: base's open, base's choice, the arm's open, the arm's choice."""
    column = RECOGNITION[options].column
    return ["open_correct", column, "open_correct_arm", f"{column}_arm"]
