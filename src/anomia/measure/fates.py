"""What became, in a compressed arm, of the items that base answers both in open and in choice.

Source: paper, sections 3.1 and 3.5 (Figures 1 and 8).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.rates import Estimate, rate, right_or_wrong

Fate = Literal["kept", "choice_only", "open_only", "lost"]
FATES: tuple[Fate, ...] = get_args(Fate)

# States of an item in one model: right in both formats, in one, or in neither.
STATES = ("both", "choice_only", "open_only", "neither")

# Below this many both-correct items a language gets counts and no rate.
FEWEST_BOTH_CORRECT = 10


class FateCounts(NamedTuple):
    """How many both-correct items met each fate."""

    kept: int
    choice_only: int
    open_only: int
    lost: int

    @property
    def both_correct(self) -> int:
        """All items that base answers in open and in choice."""
        return sum(self)


def fate(base_open: bool, base_choice: bool, arm_open: bool, arm_choice: bool) -> Fate | None:
    """The fate of one item; None where base fails it in open or in choice."""
    if not (base_open and base_choice):
        return None
    if arm_open:
        return "kept" if arm_choice else "open_only"
    return "choice_only" if arm_choice else "lost"


def fates(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> NDArray[np.int8]:
    """Fates of many items as indices into `FATES`, −1 where base fails the item: [items]."""
    both, said, chosen = _outcomes(base_open, base_choice, arm_open, arm_choice)
    index = np.where(said, np.where(chosen, 0, 2), np.where(chosen, 1, 3))
    return np.where(both, index, -1).astype(np.int8)


def states(opened: ArrayLike, chosen: ArrayLike) -> NDArray[np.int8]:
    """The state of each item in one model, as indices into `STATES`: [items]."""
    said, picked = right_or_wrong(opened), right_or_wrong(chosen)
    return np.where(said, np.where(picked, 0, 2), np.where(picked, 1, 3)).astype(np.int8)


def transitions(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> NDArray[np.intp]:
    """How many items go from each state of base (rows) to each of the arm (columns): [4, 4], as `STATES`."""
    pairs = 4 * states(base_open, base_choice) + states(arm_open, arm_choice)
    return np.bincount(pairs, minlength=16).reshape(4, 4)


def count_fates(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> FateCounts:
    """How many items met each fate; the four arguments are right or wrong by item: [items]."""
    index = fates(base_open, base_choice, arm_open, arm_choice)
    return FateCounts(*(int((index == position).sum()) for position in range(len(FATES))))


def dissociation_rate(counts: FateCounts) -> float | None:
    """`choice_only` over all both-correct items; None where there is none."""
    return counts.choice_only / counts.both_correct if counts.both_correct else None


def dissociation(
    base_open: ArrayLike,
    base_choice: ArrayLike,
    arm_open: ArrayLike,
    arm_choice: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Estimate | None:
    """The dissociation rate with its interval; None below `FEWEST_BOTH_CORRECT` both-correct items."""
    index = fates(base_open, base_choice, arm_open, arm_choice)
    both = index >= 0
    if both.sum() < FEWEST_BOTH_CORRECT:
        return None
    clusters = None if passages is None else np.asarray(passages)[both]
    return rate(index[both] == FATES.index("choice_only"), clusters, level=level)


def _outcomes(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    columns = [right_or_wrong(column) for column in (base_open, base_choice, arm_open, arm_choice)]
    if len({column.shape for column in columns}) != 1:
        shapes = ", ".join(str(column.shape) for column in columns)
        raise DataError(f"fates need the same items in base and arm, got {shapes}: join the records by item")
    return columns[0] & columns[1], columns[2], columns[3]
