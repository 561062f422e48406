"""Figures that are functions of sums over items, and their intervals per language and over languages.

A quantity names its columns, what is made of their sums, and a plain interval without resampling: score
intervals, joined by MOVER (Zou and Donner 2008) where a figure is a difference. Which interval is given
follows from how many items changed between base and arm, counted down by the design effect:
30 or more: BCa over passages (`bootstrap`). 10 to 29: the wider of BCa and the plain one on either side,
for BCa alone covers too little there (`docs/statistics.md`). Fewer, or BCa undefined: the plain one.
A difference takes BCa alone only if both of its sides have 30, and the plain one only if neither has 10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.bootstrap import FloatArray, Resampling, Totals, bca, totals
from anomia.measure.drops import above_floor
from anomia.measure.paired import paired_difference
from anomia.measure.rates import (
    CHECKED_EVENTS,
    CHECKED_ITEMS,
    Clusters,
    Estimate,
    cluster,
    effective_items,
    rate,
    right_or_wrong,
)

Mask = NDArray[np.bool_]

# From this many (effective) changed items on, BCa alone covers what it says.
BCA_ALONE = 30


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure over items.

    columns: what is summed: [items, C]. value: figure of the sums: [..., C] → [...], not a number where
    it is undefined. given: whether the sums [C] of the observed items allow the figure at all.
    plain: value and interval of the items under a mask at a level, without resampling; `checked` says whether what
    the figure is divided by rests on enough items. changed: the items that carry its uncertainty: [items].
    sides: of a difference, what it is a difference of; their columns follow each other in `columns`, and
    their intervals joined take the place of `plain`.
    """

    columns: FloatArray
    value: Callable[[FloatArray], FloatArray]
    given: Callable[[FloatArray], bool]
    plain: Callable[[Mask, float], Estimate | None]
    changed: Mask
    sides: tuple[Quantity, ...] = ()


class Everywhere(NamedTuple):
    """One quantity by language, over all items pooled, and as a mean over languages.

    left_out: languages in which it is not given, which the mean leaves out.
    """

    by_language: dict[str, Estimate | None]
    pooled: Estimate | None
    mean: Estimate | None
    left_out: tuple[str, ...]


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
    )


def normalized(
    base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None = None, *, floor: float
) -> Quantity:
    """Normalized drop: the share of what base had above the floor that the arm lost.

    base, arm: right or wrong by item: [items].
    """
    before, after, ids = _paired(base, arm, passages)

    def plain(mask: Mask, level: float) -> Estimate | None:
        raw = paired_difference(before[mask], after[mask], ids[mask], level=level)
        if raw is None or not above_floor(float(before[mask].mean()), floor):
            return None
        height = float(before[mask].mean()) - floor
        scale = float(ratio_widening(before[mask], after[mask], floor)) / height
        value = raw.value / height
        return raw._replace(
            value=value,
            low=value - (raw.value - raw.low) * scale,
            high=value + (raw.high - raw.value) * scale,
        )

    def value(sums: FloatArray) -> FloatArray:
        height = sums[..., 0] - floor * sums[..., 2]
        return _ratio(sums[..., 0] - sums[..., 1], np.where(height > 1e-9, height, 0.0))

    return Quantity(
        columns=np.stack([before, after, np.ones_like(before)], axis=-1),
        value=value,
        given=lambda sums: bool(sums[2] > 0) and above_floor(float(sums[0] / sums[2]), floor),
        plain=plain,
        changed=before != after,
    )


def ratio_widening(base: FloatArray, arm: FloatArray, floor: float) -> FloatArray:
    """How much wider a normalized drop is than the raw drop over a known height: [items, …] → […].

    By the delta method, and never below 1: where the arm is worse the height's uncertainty cancels part
    of the drop's, which few items can't be trusted to show; where it is better they add up.
    """
    drops = base - arm
    height = base.mean(axis=0) - floor
    with np.errstate(invalid="ignore", divide="ignore"):
        linear = drops - drops.mean(axis=0) / height * base
        widening = linear.std(axis=0) / drops.std(axis=0)
    return np.asarray(np.where(np.isfinite(widening), np.maximum(widening, 1.0), 1.0), dtype=np.float64)


def share(hits: ArrayLike, among: ArrayLike, passages: ArrayLike | None = None) -> Quantity:
    """Share of hits (0 to 1) among the items marked: a dissociation rate, a recovery rate: [items] each."""
    marked = right_or_wrong(among)
    found = np.where(marked, np.asarray(hits, dtype=np.float64), 0.0)
    ids = _ids(passages, len(marked))
    hit, missed = marked & (found > 0), marked & (found < 1)
    rarer = hit if hit.sum() <= missed.sum() else missed
    return Quantity(
        columns=np.stack([found, marked.astype(np.float64)], axis=-1),
        value=lambda sums: _ratio(sums[..., 0], sums[..., 1]),
        given=lambda sums: bool(sums[1] > 0),
        plain=lambda mask, level: _trusted(rate(found[mask & marked], ids[mask & marked], level=level)),
        changed=rarer,
    )


def minus(first: Quantity, second: Quantity) -> Quantity:
    """The difference of two quantities of the same items, resampled together.

    Where BCa alone won't do, its interval joins theirs as if they were independent: too wide where they
    move together.
    """
    split = first.columns.shape[1]
    return Quantity(
        columns=np.concatenate([first.columns, second.columns], axis=1),
        value=lambda sums: first.value(sums[..., :split]) - second.value(sums[..., split:]),
        given=lambda sums: first.given(sums[:split]) and second.given(sums[split:]),
        plain=lambda mask, level: _joined(first.plain(mask, level), second.plain(mask, level)),
        changed=first.changed | second.changed,
        sides=(first, second),
    )


def restrict(quantity: Quantity, items: Mask) -> Quantity:
    """The quantity over the items under a mask alone."""
    places = np.flatnonzero(items)

    def plain(part: Mask, level: float) -> Estimate | None:
        whole = np.zeros(len(items), dtype=bool)
        whole[places[part]] = True
        return quantity.plain(whole, level)

    sides = tuple(restrict(side, items) for side in quantity.sides)
    return Quantity(
        quantity.columns[items], quantity.value, quantity.given, plain, quantity.changed[items], sides
    )


def gap_quantity(
    base_open: ArrayLike,
    arm_open: ArrayLike,
    base_choice: ArrayLike,
    arm_choice: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    floor: float,
) -> Quantity:
    """ΔPR: the normalized drop of open − that of choice; `floor` is choice's."""
    return minus(
        normalized(base_open, arm_open, passages, floor=0.0),
        normalized(base_choice, arm_choice, passages, floor=floor),
    )


def join(one: Estimate, other: Estimate) -> Estimate:
    """Interval of one figure − another from theirs (MOVER), as if they were independent."""
    value = one.value - other.value
    below = ((one.value - one.low) ** 2 + (other.high - other.value) ** 2) ** 0.5
    above = ((one.high - one.value) ** 2 + (other.value - other.low) ** 2) ** 0.5
    return Estimate(
        value,
        value - below,
        value + above,
        min(one.n, other.n),
        min(one.clusters, other.clusters),
        "joined sides",
        one.checked and other.checked,
    )


def everywhere(quantity: Quantity, resampling: Resampling, *, level: float = 0.95) -> Everywhere:
    """A quantity with its interval in each language, pooled, and as a mean over languages."""
    return everywhere_all({"": quantity}, resampling, level=level)[""]


def everywhere_all(
    quantities: Mapping[str, Quantity], resampling: Resampling, *, level: float = 0.95
) -> dict[str, Everywhere]:
    """Many quantities of the same items in one pass over the draws, which is most of the work."""
    items = len(resampling.language)
    for name, quantity in quantities.items():
        if len(quantity.columns) != items:
            raise DataError(
                f"{name or 'the quantity'} has {len(quantity.columns)} items, but {items} were resampled: "
                "take the same items in both"
            )
    if not quantities:
        return {}
    sums = totals(resampling, np.concatenate([part.columns for part in quantities.values()], axis=1))
    found, start = {}, 0
    for name, quantity in quantities.items():
        stop = start + quantity.columns.shape[1]
        found[name] = _everywhere(
            quantity, resampling, Totals(*(part[..., start:stop] for part in sums)), level
        )
        start = stop
    return found


def _everywhere(quantity: Quantity, resampling: Resampling, sums: Totals, level: float) -> Everywhere:
    given = [number for number, part in enumerate(sums.observed) if quantity.given(part)]
    by_language: dict[str, Estimate | None] = dict.fromkeys(resampling.languages)
    for number in given:
        mask = resampling.language == number
        items = _Items(mask, resampling.passage, (np.unique(resampling.passage[mask]),), level)
        part = Totals(*(total[..., number, :] for total in sums))
        by_language[resampling.languages[number]] = _marked(quantity, _estimate(quantity, part, items), items)
    pooled = None
    if quantity.given(sums.observed.sum(axis=0)):
        mask = np.ones(len(resampling.language), dtype=bool)
        items = _Items(mask, resampling.passage, tuple(s.passages for s in resampling.strata), level)
        pooled = _estimate(quantity, Totals(*(total.sum(axis=-2) for total in sums)), items)
        pooled = _marked(quantity, pooled, items)
    mean = _mean(quantity, resampling, sums, given, by_language, level) if given else None
    left_out = tuple(name for name, estimate in by_language.items() if estimate is None)
    return Everywhere(by_language, pooled, mean, left_out)


class _Items(NamedTuple):
    """Which items a figure is over, their passages, and the strata of those."""

    mask: Mask
    passage: NDArray[np.intp]
    strata: tuple[NDArray[np.intp], ...]
    level: float


def _estimate(quantity: Quantity, sums: Totals, items: _Items) -> Estimate:
    """The figure of sums [C], [draws, C] and [passages, C] with the interval that its changed items allow."""
    plain: Estimate | None
    if quantity.sides:
        estimates, start = [], 0
        for side in quantity.sides:
            stop = start + side.columns.shape[1]
            estimates.append(_estimate(side, Totals(*(part[..., start:stop] for part in sums)), items))
            start = stop
        plain = join(*estimates)
    else:
        plain = quantity.plain(items.mask, items.level)
    if plain is None:
        raise DataError("a figure was given that has no plain interval: please report this")
    return _chosen(quantity, [quantity.value(part) for part in sums], plain, items)


def _chosen(quantity: Quantity, figures: list[FloatArray], plain: Estimate, items: _Items) -> Estimate:
    """figures: observed, in every draw [draws], without each passage [passages]."""
    observed, drawn, without = (np.atleast_1d(figure) for figure in figures)
    interval = bca(observed, drawn[:, None], without[:, None], items.strata, level=items.level)
    leaves = [side.changed[items.mask] for side in _leaves(quantity)]
    groups = cluster(items.passage[items.mask], int(items.mask.sum()))
    events = [_effective(leaf, groups, items.level) if interval.defined[0] else 0.0 for leaf in leaves]
    low, high, method = choose(float(interval.low[0]), float(interval.high[0]), plain, events)
    return plain._replace(value=float(observed[0]), low=low, high=high, method=method)


def _marked(quantity: Quantity, estimate: Estimate, items: _Items) -> Estimate:
    """The estimate, marked where its counts are outside the region in which coverage was shown."""
    most = max(int(leaf.changed[items.mask].sum()) for leaf in _leaves(quantity))
    checked = estimate.checked and estimate.n >= CHECKED_ITEMS and most >= CHECKED_EVENTS
    return estimate._replace(checked=checked)


def _leaves(quantity: Quantity) -> list[Quantity]:
    """The quantities that a difference is made of in the end."""
    return [leaf for side in quantity.sides for leaf in _leaves(side)] if quantity.sides else [quantity]


def choose(low: float, high: float, plain: Estimate, events: Sequence[float]) -> tuple[float, float, str]:
    """The interval to give, and its name. low, high: BCa's. events: changed items on each side."""
    if max(events) < CHECKED_EVENTS:
        return plain.low, plain.high, plain.method
    if min(events) < BCA_ALONE:
        return min(low, plain.low), max(high, plain.high), f"wider of BCa and {plain.method}"
    return low, high, "BCa over passages"


def _effective(changed: Mask, groups: Clusters, level: float) -> float:
    """Changed items, counted down by the design effect."""
    flags = changed.astype(np.float64)
    return float(flags.mean()) * effective_items(flags, groups, level=level)


def _mean(
    quantity: Quantity,
    resampling: Resampling,
    sums: Totals,
    given: list[int],
    by_language: dict[str, Estimate | None],
    level: float,
) -> Estimate:
    parts = [estimate for estimate in by_language.values() if estimate is not None]
    strata = tuple(s.passages for s in resampling.strata if np.isin(s.languages, given).any())
    items = _Items(np.isin(resampling.language, given), resampling.passage, strata, level)
    value = sum(part.value for part in parts) / len(parts)
    below = sum((part.value - part.low) ** 2 for part in parts) ** 0.5 / len(parts)
    above = sum((part.high - part.value) ** 2 for part in parts) ** 0.5 / len(parts)
    plain = Estimate(
        value,
        value - below,
        value + above,
        sum(part.n for part in parts),
        sum(len(member) for member in strata),
        parts[0].method if len(parts) == 1 else "joined languages",
        # Languages add up: what is too little in one may be enough in their mean.
        True,
    )
    figures = [quantity.value(total[..., given, :]).mean(axis=-1) for total in sums]
    return _marked(quantity, _chosen(quantity, figures, plain, items), items)


def _paired(
    base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    before, after = np.asarray(base, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    if before.shape != after.shape:
        raise DataError(
            f"paired items must match: {before.shape} and {after.shape}; join the records by item"
        )
    return before, after, _ids(passages, len(before))


def _joined(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    return None if one is None or other is None else join(one, other)


def _trusted(estimate: Estimate | None) -> Estimate | None:
    """A plain interval that is divided by nothing but the number of items."""
    return None if estimate is None else estimate._replace(checked=True)


def _ids(passages: ArrayLike | None, items: int) -> NDArray[np.intp]:
    # Numbers sort and compare faster than names, and this is done for every language and arm.
    return cluster(passages, items).index


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(under != 0, over / under, np.nan), dtype=np.float64)
