"""The results of one arm from which its tables are made."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from anomia.grade import CONTAINMENT
from anomia.items.sets import set_of
from anomia.measure.figures import Lookup, before, lookup
from anomia.measure.frame import POOLED
from anomia.measure.measures import Measure
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.report.tables.table import Change


class ArmResults(NamedTuple):
    """One arm of a run. scopes: the languages in which it has answered anything, and last `pooled`."""

    results: Results
    arm: str
    figures: Lookup
    scopes: list[str]

    def figure(self, measure: Measure, scope: str = POOLED) -> Estimate | None:
        """A figure of the arm."""
        return self.figures.get((self.arm, measure, scope))

    def change(self, measure: Measure, scope: str = POOLED) -> Change | None:
        """Base's figure over the arm's items, and the arm's; None if both are missing."""
        found = Change(before(self.figures, self.arm, measure, scope), self.figure(measure, scope))
        return None if found == (None, None) else found


def arm_results(results: Results, arm: str) -> ArmResults:
    """The results of one arm of a run."""
    answered = results.records.filter(pl.col("arm") == arm)["language"].unique()
    return ArmResults(results, arm, lookup(results.diagnosis.figures), [*sorted(answered), POOLED])


def unfinished_text(results: Results, arm: str) -> str:
    """A note that an arm has answered fewer items than base, and what base's figures then cover; else empty."""
    answered, asked = (len(results.records.filter(pl.col("arm") == name)) for name in (arm, "base"))
    if answered >= asked:
        return ""
    return f"{answered} of {asked} items are answered so far; base's figures cover the same items"


def grader_of(results: Results) -> str:
    """The grader of open answers in a run's study: a task's own if the study names none."""
    source = set_of(str(results.study.get("data", "")))
    own = f"{source.name}'s own" if source is not None and source.task is not None else CONTAINMENT.grader
    return str(results.study.get("grader") or own)
