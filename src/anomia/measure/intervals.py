"""Intervals of differences, ratios and products from those of their parts, and the choice between intervals.

The score intervals of a difference's sides are joined by MOVER (Zou and Donner 2008). The choice depends on how many
items changed between base and arm, divided by the design effect:
30 or more: BCa over passages (`bootstrap`). 10 to 29: on each side the wider of BCa and the plain interval,
because BCa alone undercovers there (`docs/statistics.md`). Fewer, or BCa undefined: the plain interval.
A difference uses BCa alone only if both of its sides have 30, and the plain interval only if neither has 10.
No interval leaves the possible range: an arm can't lose more than all that base had.
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
# From this many (effective) changed items on, BCa alone has its nominal coverage.
BCA_ALONE = 30


def join(one: Estimate, other: Estimate) -> Estimate:
    """The interval of one figure − another from their intervals (MOVER), as if they were independent."""
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
    """`join`, or None if either is None."""
    return None if one is None or other is None else join(one, other)


def product(one: Estimate, other: Estimate) -> Estimate:
    """The interval of the product of two rates from their intervals (MOVER), as if they were independent."""
    value = one.value * other.value
    below = ((one.value - one.low) * other.value) ** 2 + ((other.value - other.low) * one.value) ** 2
    above = ((one.high - one.value) * other.value) ** 2 + ((other.high - other.value) * one.value) ** 2
    return Estimate(
        value, value - below**0.5, value + above**0.5, one.n, one.clusters, "product of two rates", True
    )


def over_height(
    base: FloatArray, arm: FloatArray, floors: FloatArray, ids: NDArray[np.intp], level: float
) -> Estimate | None:
    """The score interval of a raw drop, divided by base's height above the floor. base, arm, floors, ids: [items]."""
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
    """The range of normalized drops: from an arm that gets everything right to one that gets nothing right.

    base: the lower bound of base's accuracy, not the observed value. If base was lucky, a real gain may lie outside the
    range that the observed value allows.
    """
    height = base - floor
    if height <= 1e-9:
        return -math.inf, math.inf if floor > 0 else 1.0
    return (base - 1) / height, base / height


def ratio_widening(base: FloatArray, arm: FloatArray, floor: ArrayLike) -> FloatArray:
    """How much wider a normalized drop is than the raw drop over a known height: [items, …] → […].

    floor: one number, or one per item.

    By the delta method, and never below 1: where the arm is worse, the uncertainty of the height cancels part of the
    drop's, which few items can't establish reliably; where the arm is better, the two add up.
    """
    drops = base - arm
    heights = base - np.asarray(floor)
    with np.errstate(invalid="ignore", divide="ignore"):
        linear = drops - drops.mean(axis=0) / heights.mean(axis=0) * heights
        widening = linear.std(axis=0) / drops.std(axis=0)
    return np.asarray(np.where(np.isfinite(widening), np.maximum(widening, 1.0), 1.0), dtype=np.float64)


def inside(low: float, high: float, value: float, possible: Range) -> Range:
    """An interval cut to the possible range; it always contains its value."""
    return min(max(low, possible[0]), value), max(min(high, possible[1]), value)


def range_apart(one: Range, other: Range) -> Range:
    """The range of the difference of two figures."""
    return one[0] - other[1], one[1] - other[0]


def choose(low: float, high: float, plain: Estimate, events: Sequence[float]) -> tuple[float, float, str]:
    """The bounds to report, and their method. low, high: BCa's bounds. events: changed items on each side."""
    if max(events) < CHECKED_EVENTS:
        return plain.low, plain.high, plain.method
    if min(events) < BCA_ALONE:
        return min(low, plain.low), max(high, plain.high), f"wider of BCa and {plain.method}"
    return low, high, "BCa over passages"


def mean_of(parts: Sequence[Estimate], passages: int) -> Estimate:
    """The mean of independent figures, its interval joined from theirs. passages: number of passages."""
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
        # Languages add up: counts too small in one language may suffice in the mean.
        True,
    )
