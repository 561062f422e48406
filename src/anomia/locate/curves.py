"""What the experiments say: restoration curves, the share of weights that brings half back, and their intervals.

All intervals are over passages, as everywhere (`anomia.measure.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anomia.measure.bootstrap import FloatArray, bca_levels, resample, totals
from anomia.measure.rates import CHECKED_ITEMS, Estimate

HALF = 0.5
GOAL = 0.1
"""The largest share of the weights that counts as a place."""
LEVEL = 0.95
ATTRIBUTION, MOVED, DEPTH, RANDOM = "attribution", "output_change", "depth", "random"
ORDERS = (ATTRIBUTION, MOVED, DEPTH, RANDOM)


class Answered(NamedTuple):
    """The demoted items that decide, under one order.

    shares: of the weights restored, ascending, from 0 to 1: [points]. right: whether each item is right; with several
    draws of an order, the share of draws in which it is: [items, points].
    """

    shares: FloatArray
    right: FloatArray


class Deciding(NamedTuple):
    """The languages and passages of these items: [items] each."""

    languages: Sequence[str]
    passages: Sequence[int]


def crossing(shares: ArrayLike, returned: ArrayLike) -> FloatArray:
    """The smallest share at which a curve, interpolated linearly, reaches one half; 1 if it never does.

    shares: ascending: [points]. returned: [..., points]. Result: [...].
    """
    x, y = np.asarray(shares, dtype=np.float64), np.asarray(returned, dtype=np.float64)
    reached = y >= HALF - 1e-9
    first = np.argmax(reached, axis=-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(y, index[..., None], -1)[..., 0] for index in (before, first))
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(high > low, (HALF - low) / (high - low), 0.0)
    found = x[before] + np.clip(part, 0.0, 1.0) * (x[first] - x[before])
    return np.where(reached.any(axis=-1), np.where(first == 0, x[0], found), 1.0)


def half_share(items: Deciding, answered: Answered) -> Estimate:
    """The share of the weights that brings back half of the items, with its interval over passages."""
    return _estimate(items, answered.right, lambda means: crossing(answered.shares, means))


def half_difference(items: Deciding, one: Answered, other: Answered) -> Estimate:
    """How much more of the weights the other order needs to bring back half, on the same items."""
    split = len(one.shares)
    return _estimate(
        items,
        np.concatenate([one.right, other.right], axis=1),
        lambda means: crossing(other.shares, means[..., split:]) - crossing(one.shares, means[..., :split]),
    )


def mean_difference(items: Deciding, one: Answered, other: Answered) -> Estimate:
    """The share of items that one order brings back more than the other, as a mean over the points between the ends."""
    gained = (one.right[:, 1:-1] - other.right[:, 1:-1]).mean(axis=1, keepdims=True)
    return _estimate(items, gained, lambda means: np.asarray(means[..., 0]))


def _estimate(items: Deciding, columns: FloatArray, value: Callable[[FloatArray], FloatArray]) -> Estimate:
    """A function of the means of columns [items, C], with a BCa interval over passages, else one by percentiles.

    value: from means [..., C] to [...].
    """
    counted = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    sampled = resample(items.languages, items.passages)
    sums = totals(sampled, counted, pooled=np.ones(len(sampled.languages), dtype=bool))

    def of(totalled: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return value(totalled[..., -1, 1:] / totalled[..., -1, :1])

    observed, drawn, without = of(sums.observed), of(sums.drawn), of(sums.without)
    (bounds,) = bca_levels(
        np.array([observed]), drawn[:, None], without[:, None], [s.passages for s in sampled.strata], [LEVEL]
    )
    low, high, method = float(bounds.low[0]), float(bounds.high[0]), "BCa"
    if not bounds.defined[0]:
        low, high = (float(bound) for bound in np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        method = "percentile"
    found = float(observed)
    checked = len(columns) >= CHECKED_ITEMS
    return Estimate(found, min(low, found), max(high, found), len(columns), sampled.passages, method, checked)


def rank_agreement(
    scores: FloatArray, passages: Sequence[int], *, seed: int = 0, draws: int = 2000
) -> Estimate | None:
    """Spearman's correlation between the units' mean scores in two halves of the passages, with an interval.

    scores: [items, units]. The halves are drawn by the seed; passages are resampled within each. None where a half has
    fewer than two passages or there are fewer than three units.
    """
    ids = np.unique(np.asarray(passages))
    if len(ids) < 4 or scores.shape[1] < 3:
        return None
    first = np.random.default_rng(seed).permutation(ids)[: len(ids) // 2]
    side = np.isin(passages, first).astype(int).astype(str)
    sums = totals(resample(side, passages, draws=draws, seed=seed), scores)
    observed = float(stats.spearmanr(sums.observed[0], sums.observed[1]).statistic)
    drawn = _spearman(sums.drawn[:, 0], sums.drawn[:, 1])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(
        observed, min(float(low), observed), max(float(high), observed), len(scores), len(ids), "percentile",
        len(scores) >= CHECKED_ITEMS,
    )  # fmt: skip


def _spearman(one: FloatArray, other: FloatArray) -> FloatArray:
    """Spearman's correlation of each row: [draws, units] twice to [draws]."""
    first, second = (stats.rankdata(values, axis=1) for values in (one, other))
    first, second = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
        )
