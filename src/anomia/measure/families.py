"""Paired tests of an arm against base, and Holm's correction over the languages of each measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import polars as pl

from anomia.measure.contrasts import directions
from anomia.measure.figures import Figure, GradingRow, PairedTestRow, find
from anomia.measure.frame import POOLED, RECOGNITION, Bools, both, known, right, scopes
from anomia.measure.measures import drop
from anomia.measure.significance import PairedTest, holm, open_lost_more, paired_test
from anomia.probes import GRADES, GRADINGS, RECALLED

CHANGED = {name: f"{name}_correct" for name in RECALLED}
CHANGED |= {grade.name: grade.column for grade in GRADES if grade.rung and grade.probe in RECALLED}
CHANGED |= {way.name: way.column for way in RECOGNITION.values()}


def paired_tests(arm: str, pairs: pl.DataFrame) -> Iterator[PairedTestRow]:
    """Whether each accuracy changed, and whether open lost more items than choice did."""
    for name, column in CHANGED.items():
        part = known(pairs, both(column))
        yield from _family(arm, f"{name} changed", part, _changed(part, column))
    for way in RECOGNITION.values():
        part = known(pairs, both("open_correct", way.column))
        yield from _family(arm, f"open lost more items than {way.name}", part, _lost_more(part, way.column))


def grading_rows(arm: str, figures: list[Figure]) -> Iterator[GradingRow]:
    """Whether the gradings of open agree in direction, in every scope that has all of them."""
    names = [drop(name) for name in ("open", *GRADINGS)]
    mine = [figure for figure in figures if figure.arm == arm and figure.measure in names]
    for scope in dict.fromkeys(figure.scope for figure in mine):
        drops = [find(mine, arm, name, scope) for name in names]
        if all(drop is not None for drop in drops):
            yield GradingRow(arm, scope, directions(drops))


def _changed(part: pl.DataFrame, column: str) -> Callable[[Bools], PairedTest]:
    before, after = (right(part, side) for side in both(column))
    passages = part["passage"].to_numpy()
    return lambda mask: paired_test(before[mask], after[mask], passages[mask])


def _lost_more(part: pl.DataFrame, chosen: str) -> Callable[[Bools], PairedTest]:
    columns = [right(part, column) for column in both("open_correct", chosen)]
    passages = part["passage"].to_numpy()

    def test(mask: Bools) -> PairedTest:
        base_open, arm_open, base_choice, arm_choice = (column[mask] for column in columns)
        return open_lost_more(base_open, arm_open, base_choice, arm_choice, passages[mask])

    return test


def _family(
    arm: str, measure: str, part: pl.DataFrame, test: Callable[[Bools], PairedTest]
) -> Iterator[PairedTestRow]:
    """One family: the languages within one arm and one measure. The pooled test is not part of it."""
    found: Mapping[str, PairedTest] = {scope: test(mask) for scope, mask in scopes(part)}
    family = f"languages of {arm}, {measure}"
    adjusted = holm(
        {scope: each.p_value for scope, each in found.items() if scope != POOLED}, family=family
    ).p_values
    for scope, each in found.items():
        yield PairedTestRow(arm, measure, scope, each, adjusted.get(scope), family)
