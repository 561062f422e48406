"""Rates of right answers, with intervals that hold where questions share passages.

Sources: Wilson 1927; Dean and Pagano 2015 (Wilson on the effective sample size); Korn and Graubard
1998 (the effective size shrunk because few clusters estimate the variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from anomia.errors import DataError


class Estimate(NamedTuple):
    """A figure with its interval.

    n: number of items. clusters: number of passages. method: how the interval was computed.
    checked: the interval's coverage was validated by simulation in this region (`docs/statistics.md`);
    False where counts are too small for that; reports mark such figures.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    method: str = "wilson"
    checked: bool = True


# The region in which coverage was validated by simulation: items, and items in the rarer class.
CHECKED_ITEMS = 50
CHECKED_EVENTS = 10


@dataclass(frozen=True, slots=True)
class Clusters:
    """Items by passage. index: the passage of each item, from 0: [items]. count: number of passages."""

    index: NDArray[np.intp]
    count: int


def cluster(passages: ArrayLike | None, items: int) -> Clusters:
    """Number the passages [items]; without any, each item is its own passage."""
    if passages is None:
        return Clusters(np.arange(items), items)
    names, index = np.unique(np.asarray(passages), return_inverse=True)
    if index.shape != (items,):
        raise DataError(f"{items} items but {index.size} passage ids: give one id per item")
    return Clusters(index, len(names))


def right_or_wrong(values: ArrayLike) -> NDArray[np.bool_]:
    """Flags from booleans or 0 and 1; anything else (a share, an ungraded item) would silently count as right.

    >>> right_or_wrong([1, 0])
    array([ True, False])
    """
    numbers = np.asarray(values)
    if numbers.dtype != np.bool_ and not np.isin(numbers, (0, 1)).all():
        raise DataError("right or wrong is 0 or 1: leave out items that were not graded, and give no shares")
    return numbers.astype(np.bool_)


def effective_items(values: NDArray[np.float64], groups: Clusters, *, level: float = 0.95) -> float:
    """How many independent items `values` [items] are worth: n over the design effect, never more than n.

    The design effect is the cluster-robust variance of the mean over its variance under independence.
    Where it can't be estimated (all values equal, or a single passage), every passage counts as one item,
    the largest effect that dependence can have.
    """
    n = len(values)
    if groups.count == n:
        return float(n)
    if groups.count < 2:
        return 1.0
    residuals = values - values.mean()
    spread = float(residuals @ residuals)
    if spread <= 1e-12 * n:
        return float(groups.count)
    sums = np.bincount(groups.index, weights=residuals, minlength=groups.count)
    robust = float(sums @ sums) * groups.count / (groups.count - 1)
    design_effect = max(1.0, robust / (spread * n / (n - 1)))
    shrink = (student(n - 1, level) / student(groups.count - 1, level)) ** 2
    return n / design_effect * shrink


@cache
def student(freedom: int, level: float) -> float:
    """The two-sided quantile of Student's t distribution."""
    return float(stats.t.ppf(0.5 + level / 2, freedom))


@cache
def normal(level: float) -> float:
    """The two-sided quantile of the normal distribution."""
    return float(stats.norm.ppf(0.5 + level / 2))


def wilson(proportion: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion of n (effective) items; [0, 1] if n is 0."""
    if n <= 0:
        return 0.0, 1.0
    z = normal(level)
    center = (proportion + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (proportion * (1 - proportion) / n + z * z / (4 * n * n)) ** 0.5
    # At 0 and 1 the bound is the value itself; rounding must not move it.
    low = 0.0 if proportion <= 0 else max(0.0, center - half)
    high = 1.0 if proportion >= 1 else min(1.0, center + half)
    return low, high


def rate(values: ArrayLike, passages: ArrayLike | None = None, *, level: float = 0.95) -> Estimate | None:
    """The mean of values in [0, 1] (right or wrong, or a probability of being right) with Wilson's interval.

    values: [items]. passages: the passage of each item: [items]; None if each item has its own.
    None if there are no items.

    >>> rate([True] * 8 + [False] * 2).value
    0.8
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise DataError(f"a rate is taken over a list of items, got shape {numbers.shape}")
    if not len(numbers):
        return None
    if not (np.isfinite(numbers).all() and numbers.min() >= 0 and numbers.max() <= 1):
        raise DataError("a rate needs values from 0 to 1: leave out items that were not graded")
    groups = cluster(passages, len(numbers))
    value = float(numbers.mean())
    low, high = wilson(value, effective_items(numbers, groups, level=level), level=level)
    rarer = len(numbers) * min(value, 1 - value)
    checked = len(numbers) >= CHECKED_ITEMS and rarer >= CHECKED_EVENTS
    return Estimate(value, min(low, value), max(high, value), len(numbers), groups.count, "wilson", checked)


def mean_rate(
    values: ArrayLike, languages: ArrayLike, passages: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate | None:
    """The unweighted mean of the languages' rates, with Wilson's interval; None without items.

    values: from 0 to 1, as in `rate`: [items]. languages, passages: of each item: [items]. The effective number of
    items follows from the cluster-robust variance within languages, and is never more than the items are worth under
    these unequal weights.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return None
    _, language, sizes = np.unique(np.asarray(languages), return_inverse=True, return_counts=True)
    rates = np.bincount(language, weights=numbers) / sizes
    value = float(rates.mean())
    weights = 1.0 / (len(sizes) * sizes[language])
    groups = cluster(passages, len(numbers))
    freedom = groups.count - len(sizes)
    most = 1.0 / float(weights @ weights)
    sums = np.bincount(groups.index, weights=(numbers - rates[language]) * weights, minlength=groups.count)
    variance = float(sums @ sums) * groups.count / max(freedom, 1)
    if variance > 1e-15 and freedom > 0:
        shrink = (student(len(numbers) - 1, level) / student(freedom, level)) ** 2
        worth = min(most, value * (1 - value) / variance) * shrink
    else:
        worth = min(most, float(groups.count))
    low, high = wilson(value, worth, level=level)
    rarer = len(numbers) * min(value, 1 - value)
    checked = len(numbers) >= CHECKED_ITEMS and rarer >= CHECKED_EVENTS
    return Estimate(value, min(low, value), max(high, value), len(numbers), groups.count, "wilson", checked)


def student_mean(
    values: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    level: float = 0.95,
    least: float = -math.inf,
) -> Estimate | None:
    """The mean of any values with Student's interval over passages; None if there are fewer than two passages.

    values: such as changes of log-probabilities, or divergences: [items]. least: the smallest value that there can be,
    0 for a divergence. The interval ends there, which takes nothing from its coverage. passages: [items].

    >>> round(student_mean([0.5, 0.1], least=0.0).high, 2), student_mean([0.5, 0.1], least=0.0).low
    (2.84, 0.0)
    """
    numbers = np.asarray(values, dtype=np.float64)
    groups = cluster(passages, len(numbers))
    if groups.count < 2:
        return None
    mean = float(numbers.mean())
    sums = np.bincount(groups.index, weights=numbers - mean, minlength=groups.count)
    error = (float(sums @ sums) * groups.count / (groups.count - 1)) ** 0.5 / len(numbers)
    half = student(groups.count - 1, level) * error
    checked = len(numbers) >= CHECKED_ITEMS
    low = max(least, mean - half)
    return Estimate(mean, low, mean + half, len(numbers), groups.count, "Student over passages", checked)
