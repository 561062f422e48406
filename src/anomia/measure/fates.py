"""What became, in a compressed arm, of the items that base answers both in open and in choice.

An item's state in one model says in which formats it was right. Its fate is its state in the arm, if its state in base
is `both`. The definition has three forms, for arrays, for Polars and for SQL, which agree on every item.

Source: paper, sections 3.1 and 3.5 (Figures 1 and 8).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.rates import right_or_wrong

State = Literal["both", "choice_only", "open_only", "neither"]
Fate = Literal["kept", "choice_only", "open_only", "lost"]
# A state's number is 1 for a wrong answer in open, + 2 for a wrong one in choice; the fate of that number follows from it.
STATES: tuple[State, ...] = get_args(State)
FATES: tuple[Fate, ...] = get_args(Fate)
# Where base does not answer the item in both formats, or it was not graded.
NO_FATE = -1

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

    @property
    def dissociation(self) -> float | None:
        """The dissociation rate: `choice_only` over all both-correct items; None where there is none."""
        return self.choice_only / self.both_correct if self.both_correct else None


def states(opened: ArrayLike, chosen: ArrayLike) -> NDArray[np.int8]:
    """The state of each item in one model, as indices into `STATES`: [items]."""
    said, picked = right_or_wrong(opened), right_or_wrong(chosen)
    return (~said + 2 * ~picked).astype(np.int8)


def fates(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> NDArray[np.int8]:
    """Fates of many items as indices into `FATES`, `NO_FATE` where base fails the item: [items]."""
    before, after = _both_states(base_open, base_choice, arm_open, arm_choice)
    return np.where(before == STATES.index("both"), after, np.int8(NO_FATE))


def fate_expr(base_open: str, base_choice: str, arm_open: str, arm_choice: str) -> pl.Expr:
    """The same of four columns of verdicts; an item that was not graded in one of them has no fate."""
    graded = pl.all_horizontal(pl.col(base_open, base_choice, arm_open, arm_choice).is_not_null())
    wrong = (~pl.col(name) for name in (arm_open, arm_choice))
    after = pl.sum_horizontal(next(wrong).cast(pl.Int8), 2 * next(wrong).cast(pl.Int8))
    return (
        pl.when(graded & pl.col(base_open) & pl.col(base_choice)).then(after).otherwise(NO_FATE).cast(pl.Int8)
    )


def fate_sql(
    base_open: str, base_choice: str, arm_open: str, arm_choice: str, *, no_fate: int = NO_FATE
) -> str:
    """The same of four SQL expressions of verdicts, as an SQL expression. no_fate: what stands for `NO_FATE`."""
    return (
        f"CASE WHEN {base_open} AND {base_choice} AND {arm_open} IS NOT NULL AND {arm_choice} IS NOT NULL "
        f"THEN (NOT {arm_open})::TINYINT + 2 * (NOT {arm_choice})::TINYINT ELSE {no_fate} END"
    )


def met(index: NDArray[np.int8], *names: Fate) -> NDArray[np.bool_]:
    """Which items met one of these fates. index: as `fates` returns it: [items]."""
    return np.isin(index, [FATES.index(name) for name in names])


def counts_of(index: NDArray[np.int8]) -> FateCounts:
    """How many items met each fate. index: as `fates` returns it: [items]."""
    return FateCounts(*(int(met(index, name).sum()) for name in FATES))


def count_fates(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> FateCounts:
    """How many items met each fate; the four arguments are right or wrong by item: [items]."""
    return counts_of(fates(base_open, base_choice, arm_open, arm_choice))


def transitions(
    base_open: ArrayLike, base_choice: ArrayLike, arm_open: ArrayLike, arm_choice: ArrayLike
) -> NDArray[np.intp]:
    """How many items go from each state of base (rows) to each of the arm (columns): [4, 4], as `STATES`."""
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
