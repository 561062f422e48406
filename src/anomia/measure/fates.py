"""What became, in a compressed arm, of the items that base answers correctly in both open and choice.

An item's state in one model says in which formats the model got it right. If its state in base is `both`, its fate is
its state in the arm. The definition has three forms, for arrays, Polars and SQL, which agree on every item.

Source: paper, sections 3.1 and 3.5 (Figures 1 and 8).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.rates import right_or_wrong

RightIn = Literal["both", "choice_only", "open_only", "neither"]
Fate = Literal["kept", "choice_only", "open_only", "lost"]
# A state's number is 1 if open is wrong, plus 2 if choice is wrong. A fate has the number of its state in the arm.
STATES: tuple[RightIn, ...] = get_args(RightIn)
FATES: tuple[Fate, ...] = get_args(Fate)
# The fate of items that the arm still picks but no longer says; its share of all fates is the dissociation rate.
DISSOCIATED: Fate = "choice_only"
# Base doesn't answer the item correctly in both formats, or it was not graded.
NO_FATE = -1

# A language with fewer both-correct items gets counts but no rate.
FEWEST_BOTH_CORRECT = 10


class FateCounts(NamedTuple):
    """The number of both-correct items with each fate."""

    kept: int
    choice_only: int
    open_only: int
    lost: int

    @property
    def both_correct(self) -> int:
        """All items that base gets right in both open and choice."""
        return sum(self)

    @property
    def dissociation(self) -> float | None:
        """The dissociation rate: the share of `DISSOCIATED`; None if there are no both-correct items."""
        return self[FATES.index(DISSOCIATED)] / self.both_correct if self.both_correct else None


def states(opened: ArrayLike, chosen: ArrayLike) -> NDArray[np.int8]:
    """The state of each item in one model, as an index into `STATES`: [items]."""
    answered, picked = right_or_wrong(opened), right_or_wrong(chosen)
    return (~answered + 2 * ~picked).astype(np.int8)


def fates(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> NDArray[np.int8]:
    """The fate of each item as an index into `FATES`, `NO_FATE` where base fails the item: [items]."""
    before, after = _both_states(base_open, base_choice, arm_open, arm_choice)
    return np.where(before == STATES.index("both"), after, np.int8(NO_FATE))


def fate_expr(base_open: str, base_choice: str, arm_open: str, arm_choice: str) -> pl.Expr:
    """`fates` of four columns of verdicts; an item that was not graded in one of them has no fate."""
    graded = pl.all_horizontal(pl.col(base_open, base_choice, arm_open, arm_choice).is_not_null())
    wrong = (~pl.col(name) for name in (arm_open, arm_choice))
    after = pl.sum_horizontal(next(wrong).cast(pl.Int8), 2 * next(wrong).cast(pl.Int8))
    return (
        pl.when(graded & pl.col(base_open) & pl.col(base_choice)).then(after).otherwise(NO_FATE).cast(pl.Int8)
    )


def fate_sql(
    base_open: str, base_choice: str, arm_open: str, arm_choice: str, *, no_fate: int = NO_FATE
) -> str:
    """`fates` of four SQL expressions of verdicts, as an SQL expression. no_fate: the value used for `NO_FATE`."""
    return (
        f"CASE WHEN {base_open} AND {base_choice} AND {arm_open} IS NOT NULL AND {arm_choice} IS NOT NULL "
        f"THEN (NOT {arm_open})::TINYINT + 2 * (NOT {arm_choice})::TINYINT ELSE {no_fate} END"
    )


def met(index: NDArray[np.int8], *names: Fate) -> NDArray[np.bool_]:
    """Which items met one of these fates: [items]. index: from `fates`: [items]."""
    return np.isin(index, [FATES.index(name) for name in names])


def followed(index: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which items have a fate, since base gets them right in both formats: [items]. index: from `fates`: [items]."""
    return np.not_equal(index, NO_FATE)


def dissociated(index: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which items the arm still picks but no longer says: [items]. index: from `fates`: [items].

    The dissociation rate is their share among those `followed`.
    """
    return met(index, DISSOCIATED)


def counts_of(index: NDArray[np.int8]) -> FateCounts:
    """The number of items with each fate. index: from `fates`: [items]."""
    return FateCounts(*(int(met(index, name).sum()) for name in FATES))


def count_fates(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> FateCounts:
    """The number of items with each fate; the four arguments are right or wrong: [items]."""
    return counts_of(fates(base_open, base_choice, arm_open, arm_choice))


def transitions(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> NDArray[np.intp]:
    """The number of items in each state of base (rows) and of the arm (columns), as in `STATES`: [4, 4]."""
    before, after = _both_states(base_open, base_choice, arm_open, arm_choice)
    pairs = len(STATES) * before + after
    return np.bincount(pairs, minlength=len(STATES) ** 2).reshape(len(STATES), len(STATES))


def _both_states(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    shapes = [np.shape(column) for column in (base_open, base_choice, arm_open, arm_choice)]
    if len(set(shapes)) != 1:
        shown = ", ".join(map(str, shapes))
        raise DataError(f"fates need the same items in base and arm, got {shown}: join the records by item")
    return states(base_open, base_choice), states(arm_open, arm_choice)
