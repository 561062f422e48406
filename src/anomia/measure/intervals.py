"""Intervals of differences, ratios and products from those of their parts, and which interval is given.

Score intervals are joined by MOVER (Zou and Donner 2008) where a figure is a difference. Which interval is given follows
from how many items changed between base and arm, counted down by the design effect:
30 or more: BCa over passages (`bootstrap`). 10 to 29: the wider of BCa and the plain one on either side,
for BCa alone covers too little there (`docs/statistics.md`). Fewer, or BCa undefined: the plain one.
A difference takes BCa alone only if both of its sides have 30, and the plain one only if neither has 10.
No interval leaves the range of what is possible: no more than all of what base had can be lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.measure.bootstrap import FloatArray
from anomia.measure.paired import paired_difference
from anomia.measure.rates import (
    CHECKED_EVENTS,
    Estimate,
)

Range = tuple[float, float]
# The method of a difference whose interval joins those of its sides.
JOINED = "joined sides"
# From this many (effective) changed items on, BCa alone covers what it says.
BCA_ALONE = 30


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
        JOINED,
        one.checked and other.checked,
    )


def join_known(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    """The same, None where either is."""
    return None if one is None or other is None else join(one, other)


def product(one: Estimate, other: Estimate) -> Estimate:
    """Interval of the product of two rates from theirs (MOVER), as if they were independent."""
    value = one.value * other.value
    below = ((one.value - one.low) * other.value) ** 2 + ((other.value - other.low) * one.value) ** 2
    above = ((one.high - one.value) * other.value) ** 2 + ((other.high - other.value) * one.value) ** 2
    return Estimate(
        value, value - below**0.5, value + above**0.5, one.n, one.clusters, "product of two rates", True
    )


def over_height(
    base: FloatArray, arm: FloatArray, floors: FloatArray, ids: NDArray[np.intp], level: float
) -> Estimate | None:
    """The score interval of a raw drop over base's height above the floor: [items] each."""
    raw = paired_difference(base, arm, ids, level=level)
    if raw is None:
        return None
    height = float((base - floors).mean())
    scale = float(ratio_widening(base, arm, floors)) / height
    value = raw.value / height
    return raw._replace(
        value=value,
        low=value - (raw.value - raw.low) * scale,
        high=value + (raw.high - raw.value) * scale,
    )


def possible_normalized(base: float, floor: float) -> Range:
    """The range of normalized drops: the arm answers everything, or nothing.

    base: the lowest accuracy that base may have, by its interval. Not the one that was seen, for where base is
    luckier than it should be, a gain that is real lies outside the range of that.
    """
    height = base - floor
    if height <= 1e-9:
        return -math.inf, math.inf if floor > 0 else 1.0
    return (base - 1) / height, base / height


def ratio_widening(base: FloatArray, arm: FloatArray, floor: ArrayLike) -> FloatArray:
    """How much wider a normalized drop is than the raw drop over a known height: [items, …] → […].

    floor: one number, or one an item.

    By the delta method, and never below 1: where the arm is worse the height's uncertainty cancels part
    of the drop's, which few items can't be trusted to show; where it is better they add up.
    """
    drops = base - arm
    heights = base - np.asarray(floor)
    with np.errstate(invalid="ignore", divide="ignore"):
        linear = drops - drops.mean(axis=0) / heights.mean(axis=0) * heights
        widening = linear.std(axis=0) / drops.std(axis=0)
    return np.asarray(np.where(np.isfinite(widening), np.maximum(widening, 1.0), 1.0), dtype=np.float64)


def inside(low: float, high: float, value: float, possible: Range) -> Range:
    """An interval without what is not possible; it keeps its value."""
    return min(max(low, possible[0]), value), max(min(high, possible[1]), value)


def range_apart(one: Range, other: Range) -> Range:
    """The range of a difference."""
    return one[0] - other[1], one[1] - other[0]


def choose(low: float, high: float, plain: Estimate, events: Sequence[float]) -> tuple[float, float, str]:
    """The interval to give, and its name. low, high: BCa's. events: changed items on each side."""
    if max(events) < CHECKED_EVENTS:
        return plain.low, plain.high, plain.method
    if min(events) < BCA_ALONE:
        return min(low, plain.low), max(high, plain.high), f"wider of BCa and {plain.method}"
    return low, high, "BCa over passages"


def mean_of(parts: Sequence[Estimate], passages: int) -> Estimate:
    """The mean of independent figures, its interval joined from theirs."""
    value = sum(part.value for part in parts) / len(parts)
    below = sum((part.value - part.low) ** 2 for part in parts) ** 0.5 / len(parts)
    above = sum((part.high - part.value) ** 2 for part in parts) ** 0.5 / len(parts)
    return Estimate(
        value,
        value - below,
        value + above,
        sum(part.n for part in parts),
        passages,
        parts[0].method if len(parts) == 1 else "joined languages",
        # Languages add up: what is too little in one may be enough in their mean.
        True,
    )
