"""Differences of drops and gaps between conditions, and which arms are worth their size.

Each contrast is a `Quantity`: `quantities.everywhere` gives its interval, resampling both sides together.
Sources: paper, Table 1 and Appendix C (prompting), Figures 5 to 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anomia.measure.fates import FATES, fates
from anomia.measure.quantities import Quantity, drop, expected_share, gap_quantity, minus, net_share, share
from anomia.measure.rates import Estimate, right_or_wrong

Agreement = Literal["agree", "differ", "undecided"]


class Answers(NamedTuple):
    """Right or wrong of base and of one arm in open and in choice: [items] each."""

    base_open: ArrayLike
    arm_open: ArrayLike
    base_choice: ArrayLike
    arm_choice: ArrayLike


class Point(NamedTuple):
    """An arm on the frontier's plane: what it costs (bytes, or 1 − sparsity) and what it is worth."""

    cost: float
    worth: float


def one_shot_recovery(
    base_zero: ArrayLike,
    arm_zero: ArrayLike,
    base_one: ArrayLike,
    arm_one: ArrayLike,
    passages: ArrayLike | None = None,
) -> Quantity:
    """Raw drop of open at 0 shot − at 1 shot: what one exemplar gives back (paper, Table 1)."""
    return minus(drop(base_zero, arm_zero, passages), drop(base_one, arm_one, passages))


def reach_against_greedy(
    base_reached: ArrayLike,
    arm_reached: ArrayLike,
    base_open: ArrayLike,
    arm_open: ArrayLike,
    passages: ArrayLike | None = None,
) -> Quantity:
    """Raw drop in reach − raw drop in greedy: below 0 where answers are demoted, not erased."""
    return minus(drop(base_reached, arm_reached, passages), drop(base_open, arm_open, passages))


def gap_between(one: Answers, other: Answers, passages: ArrayLike | None = None, *, floor: float) -> Quantity:
    """ΔPR of one arm − of another on the same items: two calibration sets, two methods, two sizes."""
    return minus(
        gap_quantity(*one, passages, floor=floor),
        gap_quantity(*other, passages, floor=floor),
    )


def dissociation_quantity(answers: Answers, passages: ArrayLike | None = None) -> Quantity:
    """The dissociation rate as a quantity, to be contrasted."""
    index = fates(answers.base_open, answers.base_choice, answers.arm_open, answers.arm_choice)
    return share(index == FATES.index("choice_only"), index >= 0, passages)


def net_quantity(answers: Answers, passages: ArrayLike | None = None) -> Quantity:
    """Net dissociation: (both correct → choice only) − (choice only → both correct), over both correct in base.

    Items are followed because base answered them, a noisy event: harmless noise alone moves items from both correct
    to choice only. It moves as many the other way, so that the net rate is 0 under noise.
    """
    before_open, after_open, before_choice, after_choice = (right_or_wrong(column) for column in answers)
    both, both_after = before_open & before_choice, after_open & after_choice
    only, only_after = ~before_open & before_choice, ~after_open & after_choice
    return net_share(both & only_after, only & both_after, both, passages)


def expected_quantity(answers: Answers, passages: ArrayLike | None = None) -> Quantity:
    """What the two marginal drops alone would give: lost in open × kept in choice, among the both-correct items."""
    before_open, after_open, before_choice, after_choice = (right_or_wrong(column) for column in answers)
    return expected_share(after_open, after_choice, before_open & before_choice, passages)


def dissociation_between(one: Answers, other: Answers, passages: ArrayLike | None = None) -> Quantity:
    """Dissociation rate of one set of answers − of another: hard − standard choice, arm against arm."""
    return minus(dissociation_quantity(one, passages), dissociation_quantity(other, passages))


def rank_nearness(
    gold_ranks: ArrayLike,
    foil_ranks: ArrayLike,
    among: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    within: float = 10,
) -> Quantity:
    """Share of items whose gold token stands within the first places − the same of the foil's token.

    gold_ranks, foil_ranks: mid-ranks in the arm: [items]. among: the items that count, as a rule those
    that are recognised and no longer said (`choice_only`): [items].
    """
    near = np.asarray(gold_ranks, dtype=np.float64) <= within
    placebo = np.asarray(foil_ranks, dtype=np.float64) <= within
    return minus(share(near, among, passages), share(placebo, among, passages))


def frontier(points: Mapping[str, Point]) -> tuple[str, ...]:
    """The arms, by rising cost, that none beats by being as cheap and better or as good and cheaper."""
    best: list[str] = []
    for name in sorted(points, key=lambda name: (points[name].cost, -points[name].worth)):
        if not best or points[name].worth > points[best[-1]].worth or points[name] == points[best[-1]]:
            best.append(name)
    return tuple(best)


def directions(differences: Iterable[Estimate | None]) -> Agreement:
    """Whether several measures of one difference (three gradings) point the same way, by their intervals."""
    signs = {
        0 if estimate is None or estimate.low <= 0 <= estimate.high else (1 if estimate.low > 0 else -1)
        for estimate in differences
    }
    if {1, -1} <= signs:
        return "differ"
    return "agree" if signs in ({1}, {-1}) else "undecided"
