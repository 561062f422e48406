"""Scores of tasks: the paired difference between base and each arm, against a non-inferiority margin.

A score from 0 to 1 (chrF++, ROUGE, the share of instructions followed) is compared as it is, because a threshold
that makes it right or wrong would decide the result. An arm is non-inferior if the whole 95 % interval of the drop is
below the margin: a one-sided test at 2.5 %. Source: Wellek 2010, "Testing Statistical Hypotheses of Equivalence and
Noninferiority", section 1.5 (the interval inclusion rule).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import polars as pl

from anomia.measure.bootstrap import resample
from anomia.measure.everywhere import everywhere_all
from anomia.measure.frame import POOLED, Floats, arms_of, both, floats, known, pair, prepare, scopes
from anomia.measure.quantities import drop
from anomia.measure.rates import Estimate, rate

ScoreOutcome = Literal["non-inferior", "inferior", "inconclusive"]
SCORE = "score"


class ScoreRow(NamedTuple):
    """A score of a task in base and in an arm, on the items that both answered."""

    arm: str
    part: str
    """`score`, or a part of it that the task names."""
    scope: str
    n: int
    base: Estimate | None
    after: Estimate | None
    """The mean score in the arm."""
    drop: Estimate | None
    """Base − arm, paired by item."""
    margin: float
    """The largest drop that still counts as not worse."""
    outcome: ScoreOutcome
    """`non-inferior`: the drop's interval is below the margin; `inferior`: above it."""


def scores(records: pl.DataFrame, parts: Sequence[str], *, margin: float) -> list[ScoreRow]:
    """Rows for every arm, the score and each of its parts, in every language and pooled over all of them.

    parts: the names of the task's parts, in the order of the column `open_parts`. Without scores there are no rows.
    """
    if "open_score" not in records.columns or records["open_score"].is_null().all():
        return []
    records = prepare(records)
    columns = {SCORE: "open_score"}
    for place, part in enumerate(parts):
        columns[part] = f"open_part_{place}"
        records = records.with_columns(
            pl.col("open_parts").list.get(place, null_on_oob=True).alias(columns[part])
        )
    return [
        row
        for arm in arms_of(records)
        for part, column in columns.items()
        for row in _rows(arm, part, column, pair(records, arm), margin)
    ]


def score_words(row: ScoreRow) -> str:
    """What is said instead of an outcome where answers are neither right nor wrong; empty without a drop."""
    if row.base is None or row.after is None or row.drop is None:
        return ""
    told = (
        "Answers to this task have scores and are not right or wrong, so there is no outcome. The score: "
        f"{100 * row.base.value:.0f} in base, {100 * row.after.value:.0f} here; drop {100 * row.drop.value:.0f} "
        f"({100 * row.drop.low:.0f} to {100 * row.drop.high:.0f}), {row.outcome} at a margin of "
        f"{100 * row.margin:g} points."
    )
    return told.replace("-", "−").replace("non−", "non-")


def compared(estimate: Estimate | None, margin: float) -> ScoreOutcome:
    """What the interval of a drop says about a margin.

    >>> compared(Estimate(0.01, -0.02, 0.04, 200, 200), 0.05), compared(Estimate(0.1, 0.02, 0.2, 60, 60), 0.05)
    ('non-inferior', 'inconclusive')
    """
    if estimate is None:
        return "inconclusive"
    if estimate.high < margin:
        return "non-inferior"
    return "inferior" if estimate.low > margin else "inconclusive"


def _rows(arm: str, part: str, column: str, pairs: pl.DataFrame, margin: float) -> Iterator[ScoreRow]:
    graded = known(pairs, both(column))
    if graded.is_empty():
        return
    before, after = floats(graded, column), floats(graded, f"{column}_arm")
    passages = graded["passage"].to_numpy()
    drawn = resample(graded["language"].to_list(), passages)
    found = everywhere_all({part: drop(before, after, passages)}, drawn)[part]
    for scope, mask in scopes(graded.with_columns(pooled=pl.lit(True))):
        estimate = found.pooled if scope == POOLED else found.by_language[scope]
        means: list[Floats] = [before[mask], after[mask]]
        base, mine = (rate(values, passages[mask]) for values in means)
        yield ScoreRow(
            arm, part, scope, int(mask.sum()), base, mine, estimate, margin, compared(estimate, margin)
        )
