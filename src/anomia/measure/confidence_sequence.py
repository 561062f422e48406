"""An interval for a proportion that stays valid however often one looks and whenever one stops.

Source: Robbins 1970; the beta mixture of likelihood ratios, as in Howard et al. 2021. The ratio is a martingale under
the true proportion, so by Ville's inequality it ever exceeds 1/α with a probability of at most α; values strictly
between 0 and 1 only make it smaller.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, xlog1py, xlogy

from anomia.errors import DataError
from anomia.measure.rates import Estimate, cluster

_BISECTIONS = 40


class Stop(NamedTuple):
    """Whether to stop taking items, and why.

    estimate: the interval at this look; None before the first both-correct item.
    """

    stop: bool
    reason: str
    estimate: Estimate | None


def confidence_sequence(
    values: ArrayLike, passages: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate | None:
    """The mean of the values so far, with an interval that is valid at all looks together; None without values.

    values: 0 to 1, in the fixed order in which items are taken: [items so far]. Passages are the independent units, and
    the figure is the mean of the passages' means, so look only when passages are complete. passages: [items so far].
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return None
    if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= 1):
        raise DataError("a confidence sequence needs values from 0 to 1")
    groups = cluster(passages, len(numbers))
    sums = np.bincount(groups.index, weights=numbers, minlength=groups.count)
    means = sums / np.bincount(groups.index, minlength=groups.count)
    value = float(means.mean())
    low, high = mixture_bounds(float(means.sum()), groups.count, level=level)
    return Estimate(
        value, min(low, value), max(high, value), len(numbers), groups.count, "confidence sequence", True
    )


def mixture_bounds(hits: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """The proportions whose mixture likelihood ratio after `hits` out of n stays below 1 / (1 − level)."""
    value = hits / n
    # Jeffreys' prior as the mixture.
    evidence = betaln(hits + 0.5, n - hits + 0.5) - betaln(0.5, 0.5) + np.log(1 - level)

    def inside(proportion: float) -> bool:
        return bool(evidence <= xlogy(hits, proportion) + xlog1py(n - hits, -proportion))

    bounds = []
    for edge in (0.0, 1.0):
        inner, outer = value, edge
        for _ in range(_BISECTIONS):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        bounds.append(outer)
    return bounds[0], bounds[1]


def until_width(
    values: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    width: float,
    items_left: int,
    level: float = 0.95,
) -> Stop:
    """Whether the interval of a dissociation rate is narrow enough to stop, or no items are left.

    values: whether each both-correct item so far is `choice_only`, in the order of the items: [items so far].
    passages: the passage of each item: [items so far]; None if each item has its own.
    """
    if not 0 < width < 1:
        raise DataError(f"the width of an interval of a rate lies between 0 and 1, got {width:g}")
    estimate = confidence_sequence(values, passages, level=level)
    if estimate is not None and estimate.high - estimate.low <= width:
        return Stop(
            True, f"the interval is {estimate.high - estimate.low:.3f} wide, at most {width:g}", estimate
        )
    if items_left <= 0:
        reached = (
            "there is no both-correct item"
            if estimate is None
            else f"it is {estimate.high - estimate.low:.3f}"
        )
        return Stop(True, f"the items are used up before the width of {width:g}: {reached}", estimate)
    return Stop(False, f"the interval is wider than {width:g}", estimate)
