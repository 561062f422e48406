"""Differences of drops and gaps between conditions, and which arms are worth their size.

Each contrast is a `Quantity`; `everywhere.everywhere` gives its interval by resampling both sides together.
Sources: paper, Table 1 and Appendix C (prompting), Figures 5 to 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anomia.measure.quantities import Quantity, drop, minus, share
from anomia.measure.rates import Estimate

Agreement = Literal["agree", "differ", "undecided"]


class Point(NamedTuple):
    """An arm on the Pareto plane. cost: bytes, or 1 − sparsity. worth: accuracy."""

    cost: float
    worth: float


def one_shot_recovery(
    base_zero: ArrayLike,
    arm_zero: ArrayLike,
    base_one: ArrayLike,
    arm_one: ArrayLike,
    passages: ArrayLike | None = None,
) -> Quantity:
    """Raw drop of open at 0 shot − at 1 shot, which is what one example gives back (paper, Table 1): [items] each."""
    return minus(drop(base_zero, arm_zero, passages), drop(base_one, arm_one, passages))


def rank_nearness(
    gold_ranks: ArrayLike,
    control_ranks: ArrayLike,
    among: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    within: float = 10,
) -> Quantity:
    """Share of items whose gold token ranks within the first places − the same share for the control's token.

    gold_ranks, control_ranks: mid-ranks in the arm: [items]. among: the items that count, usually the `choice_only`
    ones, which are recognised but no longer answered: [items]. passages: [items].
    """
    near = np.asarray(gold_ranks, dtype=np.float64) <= within
    placebo = np.asarray(control_ranks, dtype=np.float64) <= within
    return minus(share(near, among, passages), share(placebo, among, passages))


def frontier(points: Mapping[str, Point]) -> tuple[str, ...]:
    """The Pareto-optimal arms, by rising cost: none is as cheap and better, or as good and cheaper."""
    best: list[str] = []
    for name in sorted(points, key=lambda name: (points[name].cost, -points[name].worth)):
        if not best or points[name].worth > points[best[-1]].worth or points[name] == points[best[-1]]:
            best.append(name)
    return tuple(best)


def directions(differences: Iterable[Estimate | None]) -> Agreement:
    """Whether several measures of one difference (three gradings) point in the same direction, by their intervals."""
    signs = {
        0 if estimate is None or estimate.low <= 0 <= estimate.high else (1 if estimate.low > 0 else -1)
        for estimate in differences
    }
    if {1, -1} <= signs:
        return "differ"
    return "agree" if signs in ({1}, {-1}) else "undecided"
