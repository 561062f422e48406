"""The dissociation rate, the net rate, and the rate that the two drops alone would give, as quantities with intervals.

All of them are over the items that base gets right in both formats.
"""

from __future__ import annotations

from typing import NamedTuple

from numpy.typing import ArrayLike

from anomia.measure.fates import DISSOCIATED, STATES, dissociated, fates, followed, states
from anomia.measure.quantities import Quantity, expected_share, net_share, share
from anomia.measure.rates import right_or_wrong


class Answers(NamedTuple):
    """Right or wrong of base and one arm in open and in choice: [items] each."""

    base_open: ArrayLike
    arm_open: ArrayLike
    base_choice: ArrayLike
    arm_choice: ArrayLike


def dissociation(answers: Answers, passages: ArrayLike | None = None) -> Quantity:
    """The share of items that the arm still picks but no longer says (`choice_only`). passages: [items]."""
    index = fates(answers.base_open, answers.base_choice, answers.arm_open, answers.arm_choice)
    return share(dissociated(index), followed(index), passages)


def net_dissociation(answers: Answers, passages: ArrayLike | None = None) -> Quantity:
    """(both correct → choice only) − (choice only → both correct), over base's both-correct items.

    Items are followed because base got them right, which is noisy: harmless noise alone moves items from both correct
    to choice only. It moves equally many the other way, so the net rate is 0 under noise.
    """
    before = states(answers.base_open, answers.base_choice)
    after = states(answers.arm_open, answers.arm_choice)
    both, choice_only = STATES.index("both"), STATES.index(DISSOCIATED)
    fell = (before == both) & (after == choice_only)
    rose = (before == choice_only) & (after == both)
    return net_share(fell, rose, before == both, passages)


def expected_dissociation(answers: Answers, passages: ArrayLike | None = None) -> Quantity:
    """The rate if open and choice changed independently: share lost in open × share kept in choice."""
    before = states(answers.base_open, answers.base_choice)
    kept_open, kept_choice = right_or_wrong(answers.arm_open), right_or_wrong(answers.arm_choice)
    return expected_share(kept_open, kept_choice, before == STATES.index("both"), passages)
