"""Figures that are functions of sums over items.

A quantity has columns to sum, a function of the sums, and a plain interval that needs no resampling. `everywhere`
computes its interval in every language and over languages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.bootstrap import FloatArray
from anomia.measure.drops import above_floor
from anomia.measure.fates import FEWEST_BOTH_CORRECT
from anomia.measure.intervals import (
    Range,
    join_known,
    over_height,
    possible_normalized,
    product,
    range_apart,
)
from anomia.measure.paired import paired_difference
from anomia.measure.rates import (
    CHECKED_EVENTS,
    Estimate,
    cluster,
    rate,
    right_or_wrong,
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure over items.

    columns: what is summed: [items, C]. value: the figure, from the sums: [..., C] → [...], NaN where it is undefined.
    given: whether the sums [C] of the observed items allow the figure.
    plain: value and interval of the items under a mask [items] at a level, without resampling; `checked` says whether
    the denominator rests on enough items. changed: the items that carry the uncertainty: [items].
    possible: the range of possible values of the items under a mask at a level.
    sides: the two quantities of a difference; their columns are concatenated in `columns`, and joining their intervals
    replaces `plain`.
    """

    columns: FloatArray
    value: Callable[[FloatArray], FloatArray]
    given: Callable[[FloatArray], bool]
    plain: Callable[[Mask, float], Estimate | None]
    changed: Mask
    possible: Callable[[Mask, float], Range]
    sides: tuple[Quantity, ...] = ()


def drop(base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None = None) -> Quantity:
    """Raw drop: base's accuracy − the arm's: [items] of right or wrong, or of grades from 0 to 1."""
    before, after, ids = _paired(base, arm, passages)
    return Quantity(
        columns=np.stack([before, after, np.ones_like(before)], axis=-1),
        value=lambda sums: _ratio(sums[..., 0] - sums[..., 1], sums[..., 2]),
        given=lambda sums: bool(sums[2] > 0),
        plain=lambda mask, level: _trusted(
            paired_difference(before[mask], after[mask], ids[mask], level=level)
        ),
        changed=before != after,
        possible=lambda mask, level: (-1.0, 1.0),
    )


def normalized(
    base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None = None, *, floor: ArrayLike
) -> Quantity:
    """Normalized drop: the share of what base had above the floor that the arm lost.

    base, arm: right or wrong: [items]. floor: what guessing scores, one number or [items], because questions that bring
    their own options differ in their number. passages: [items].
    """
    before, after, ids = _paired(base, arm, passages)
    floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), before.shape)
    columns = [before, after, np.ones_like(before)]
    varied = bool(len(floors)) and bool(np.ptp(floors))
    if varied:
        columns.append(floors)
    one = float(floors[0]) if len(floors) else 0.0

    def height(sums: FloatArray) -> FloatArray:
        return sums[..., 0] - (sums[..., 3] if varied else one * sums[..., 2])

    def plain(mask: Mask, level: float) -> Estimate | None:
        if not mask.any() or not above_floor(float((before - floors)[mask].mean()), 0.0):
            return None
        found = over_height(before[mask], after[mask], floors[mask], ids[mask], level)
        enough = float((before - floors)[mask].sum()) >= CHECKED_EVENTS - 1e-9
        return found and found._replace(checked=enough)

    def possible(mask: Mask, level: float) -> Range:
        seen = rate(before[mask], ids[mask], level=level)
        return possible_normalized(0.0 if seen is None else seen.low, float(floors[mask].mean()))

    def value(sums: FloatArray) -> FloatArray:
        # In single precision, sums of thirds are not exactly 0 where they should be.
        above = np.where(height(sums) > 1e-4, height(sums), 0.0)
        return _ratio(sums[..., 0] - sums[..., 1], above)

    return Quantity(
        columns=np.stack(columns, axis=-1),
        value=value,
        given=lambda sums: bool(sums[2] > 0) and above_floor(float(height(sums) / sums[2]), 0.0),
        plain=plain,
        changed=before != after,
        possible=possible,
    )


def share(hits: ArrayLike, among: ArrayLike, passages: ArrayLike | None = None) -> Quantity:
    """Share of hits (0 to 1) among the marked items, such as a dissociation or recovery rate: [items] each."""
    marked = right_or_wrong(among)
    found = np.where(marked, np.asarray(hits, dtype=np.float64), 0.0)
    ids = _ids(passages, len(marked))
    return Quantity(
        columns=np.stack([found, marked.astype(np.float64)], axis=-1),
        value=lambda sums: _ratio(sums[..., 0], sums[..., 1]),
        given=lambda sums: bool(sums[1] > 0),
        plain=lambda mask, level: _trusted(rate(found[mask & marked], ids[mask & marked], level=level)),
        changed=_rarer(marked & (found > 0), marked & (found < 1)),
        possible=lambda mask, level: (0.0, 1.0),
    )


def net_share(
    fell: ArrayLike, rose: ArrayLike, among: ArrayLike, passages: ArrayLike | None = None
) -> Quantity:
    """Net share: the items that fell − those that rose, over the items marked in `among`: a net dissociation rate.

    fell: a subset of `among`. rose: the reverse flow, outside of it. All three are right or wrong: [items]. passages:
    [items].
    If changes have no direction, as between two runs of one model, it is 0. Not given for fewer than
    `FEWEST_BOTH_CORRECT` items in `among`.
    """
    lost, won, marked = (right_or_wrong(column) for column in (fell, rose, among))
    if (lost & ~marked).any() or (won & marked).any():
        raise DataError(
            "of a net share the items that fell lie among those marked, and those that rose do not"
        )
    # The items marked before and after: the net share is the normalized drop from one to the other.
    before, after, ids = _paired(marked, (marked & ~lost) | won, passages)

    def plain(mask: Mask, level: float) -> Estimate | None:
        n = int(marked[mask].sum())
        if n < FEWEST_BOTH_CORRECT:
            return None
        found = over_height(before[mask], after[mask], np.zeros(int(mask.sum())), ids[mask], level)
        return found and _trusted(found._replace(n=n, clusters=len(np.unique(ids[mask & marked]))))

    drops = normalized(marked, after, passages, floor=0.0)
    return replace(drops, given=lambda sums: bool(sums[0] >= FEWEST_BOTH_CORRECT), plain=plain)


def expected_share(
    kept_open: ArrayLike, kept_choice: ArrayLike, among: ArrayLike, passages: ArrayLike | None = None
) -> Quantity:
    """The dissociation rate if open and choice had changed independently, each as much as it did.

    (1 − the share that keeps open) × the share that keeps choice, among the marked items; right or wrong: [items] each.
    Not given for fewer than `FEWEST_BOTH_CORRECT` marked items.
    """
    opened, chosen, marked = (right_or_wrong(column) for column in (kept_open, kept_choice, among))
    failed, kept = (marked & ~opened), (marked & chosen)
    ids = _ids(passages, len(marked))

    def plain(mask: Mask, level: float) -> Estimate | None:
        here = mask & marked
        if here.sum() < FEWEST_BOTH_CORRECT:
            return None
        one, other = (rate(column[here], ids[here], level=level) for column in (failed, kept))
        return None if one is None or other is None else _trusted(product(one, other))

    return Quantity(
        columns=np.stack([column.astype(np.float64) for column in (failed, kept, marked)], axis=-1),
        value=lambda sums: _ratio(sums[..., 0], sums[..., 2]) * _ratio(sums[..., 1], sums[..., 2]),
        given=lambda sums: bool(sums[2] >= FEWEST_BOTH_CORRECT),
        plain=plain,
        changed=_rarer(failed, marked & opened),
        possible=lambda mask, level: (0.0, 1.0),
    )


def minus(first: Quantity, second: Quantity) -> Quantity:
    """The difference of two quantities over the same items, resampled together.

    Where BCa alone won't do, the sides' intervals are joined as if independent, which is too wide if the sides are
    positively correlated.
    """
    split = first.columns.shape[1]
    return Quantity(
        columns=np.concatenate([first.columns, second.columns], axis=1),
        value=lambda sums: first.value(sums[..., :split]) - second.value(sums[..., split:]),
        given=lambda sums: first.given(sums[:split]) and second.given(sums[split:]),
        plain=lambda mask, level: join_known(first.plain(mask, level), second.plain(mask, level)),
        changed=first.changed | second.changed,
        possible=lambda mask, level: range_apart(first.possible(mask, level), second.possible(mask, level)),
        sides=(first, second),
    )


def _paired(
    base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    before, after = np.asarray(base, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    if before.shape != after.shape:
        raise DataError(
            f"paired items must match: {before.shape} and {after.shape}; join the records by item"
        )
    return before, after, _ids(passages, len(before))


def _rarer(one: Mask, other: Mask) -> Mask:
    """The class with fewer items, which determines the uncertainty of a share: [items]."""
    return one if one.sum() <= other.sum() else other


def _trusted(estimate: Estimate | None) -> Estimate | None:
    """A plain interval whose only denominator is the number of items."""
    return None if estimate is None else estimate._replace(checked=True)


def _ids(passages: ArrayLike | None, items: int) -> NDArray[np.intp]:
    # Integers sort and compare faster than names, and this runs for every language and arm.
    return cluster(passages, items).index


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(under != 0, over / under, np.nan), dtype=np.float64)
