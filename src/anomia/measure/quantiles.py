"""Medians and other quantiles with distribution-free intervals, also where questions share passages.

Sources: the interval of order statistics, by the binomial distribution (Thompson 1936); on the effective number
of items, as Woodruff 1952 inverts the interval of the share below the quantile. Ties only make it wider.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anomia.measure.rates import CHECKED_EVENTS, CHECKED_ITEMS, Estimate, cluster, effective_items


def quantile(
    values: ArrayLike, place: float = 0.5, passages: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate | None:
    """The quantile at `place` (0 to 1), interpolated, with two of the values as its interval.

    values: of any kind, such as ranks or divergences: [items]. passages: [items]; None if each item has its own.
    None if there are too few items for an interval, which takes 6 for a median at 95 % and 36 for a 90 % quantile.

    >>> quantile(range(1, 10))[:3]
    (5.0, 2.0, 8.0)
    """
    numbers = np.sort(np.asarray(values, dtype=np.float64))
    n = len(numbers)
    if not n:
        return None
    value = float(np.quantile(numbers, place))
    groups = cluster(passages, n)
    below = (np.asarray(values, dtype=np.float64) <= value).astype(np.float64)
    # If all values are alike, nothing shows how passages depend; each passage then counts as one item.
    worth = int(effective_items(below, groups, level=level) + 1e-9)
    low, high = (int(stats.binom.ppf(side, worth, place)) for side in (0.5 - level / 2, 0.5 + level / 2))
    # Of `worth` independent items, the low-th and the (high + 1)-th enclose the quantile.
    if worth < 1 or low < 1 or high + 1 > worth:
        return None
    scale = n / worth
    first, last = int(low * scale), n + 1 - int((worth - high) * scale)
    checked = n >= CHECKED_ITEMS and n * min(place, 1 - place) >= CHECKED_EVENTS - 1e-9
    bounds = min(float(numbers[first - 1]), value), max(float(numbers[last - 1]), value)
    return Estimate(value, *bounds, n, groups.count, "order statistics", checked)
