"""Differences between two arms on the same items, with a score interval.

Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", on the effective number of items where questions share passages. Unlike the usual
Wald interval, it keeps some width when few or no items changed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.rates import CHECKED_EVENTS, CHECKED_ITEMS, Estimate, cluster, effective_items, normal

# Halvings of an interval of length 2: the bound is exact to about 1e-9.
_BISECTIONS = 32


def score_interval(
    lost: ArrayLike, won: ArrayLike, n: ArrayLike, *, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tango's interval for the difference (lost − won) / n; arguments broadcast, counts may be fractional.

    lost: items right in the first arm only. won: items right in the second only. n: all items, at least one.
    Each is a number or [...]. Returns the lower and the upper bounds, in the arguments' broadcast shape [...].
    """
    first, second, items = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (lost, won, n)))
    value = (first - second) / items
    z = normal(level)
    # Both bounds at once: the score reaches z at the lower bound and −z at the upper. [2, …]
    side = np.array([1.0, -1.0]).reshape(2, *(1 for _ in value.shape))
    inner, outer = np.stack([value, value]), -side * np.ones_like(value)
    for _ in range(_BISECTIONS):
        middle = (inner + outer) / 2
        inside = side * _score(middle, first, second, items) <= z
        inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
    return inner[0], inner[1]


def paired_difference(
    base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate | None:
    """Base's accuracy − the arm's on the same items, with its score interval; None without items.

    base, arm: right or wrong, or a grade from 0 to 1 such as token F1, for which the interval is conservative: [items].
    passages: the passage of each item: [items]; None if each item has its own.
    The figure, a raw drop, is positive where the arm is worse.
    """
    first, second = np.asarray(base, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(
            f"paired items must match: {first.shape} and {second.shape}; join the records by item"
        )
    n = len(first)
    if not n:
        return None
    if not all(
        np.isfinite(grade).all() and grade.min() >= 0 and grade.max() <= 1 for grade in (first, second)
    ):
        raise DataError("grades go from 0 to 1: leave out items that were not graded")
    differences = first - second
    lost, won = float(np.maximum(differences, 0).sum()), float(np.maximum(-differences, 0).sum())
    groups = cluster(passages, n)
    worth = effective_items(differences, groups, level=level)
    low, high = _bounds(lost * worth / n, won * worth / n, worth, level)
    checked = n >= CHECKED_ITEMS and int((differences != 0).sum()) >= CHECKED_EVENTS
    return Estimate((lost - won) / n, low, high, n, groups.count, "score", checked)


# Raw drops, normalized drops and the sides of gaps all use the same interval.
@lru_cache(maxsize=4096)
def _bounds(lost: float, won: float, n: float, level: float) -> tuple[float, float]:
    low, high = score_interval(lost, won, n, level=level)
    return float(low), float(high)


def _score(
    difference: NDArray[np.float64],
    lost: NDArray[np.float64],
    won: NDArray[np.float64],
    n: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Tango's score statistic of a hypothetical difference, elementwise: […]; falls as the difference grows."""
    linear = (2 * n - lost + won) * difference - lost - won
    constant = -won * difference * (1 - difference)
    # The maximum likelihood estimate of the rate of `won` under this difference.
    won_rate = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * won_rate + difference * (1 - difference))
    distance = lost - won - n * difference
    return distance / np.sqrt(np.maximum(variance, 1e-12))
