"""What the experiments say: restoration curves, the share of weights that brings half back, and their intervals.

All intervals are over passages, as everywhere (`anomia.measure.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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


class Series(NamedTuple):
    """One list of units, restored step by step.

    shares: of the weights that were restored, ascending, from 0 to 1: [points]. right: whether each item is right:
    [items, points].
    """

    shares: FloatArray
    right: FloatArray


class Answered(NamedTuple):
    """The demoted items that decide, under one order.

    series: one per draw of the order. budgets: the largest share allowed at each point, alike for all orders: [points].
    """

    series: tuple[Series, ...]
    budgets: FloatArray

    @property
    def shares(self) -> FloatArray:
        """The mean share of the weights that was restored at each point: [points]."""
        return np.asarray(np.mean([each.shares for each in self.series], axis=0))

    @property
    def right(self) -> FloatArray:
        """The share of draws in which each item is right: [items, points]."""
        return np.asarray(np.mean([each.right for each in self.series], axis=0))


class Deciding(NamedTuple):
    """The languages and passages of these items: [items] each."""

    languages: Sequence[str]
    passages: Sequence[int]


def crossing(shares: ArrayLike, returned: ArrayLike) -> FloatArray:
    """The smallest share that was tried and brought at least one half back; 1 if none did.

    Nothing is read between two shares: an order may add one large matrix from one to the next, so the true
    smallest share lies anywhere between this one and the one before.

    shares: ascending: [points]. returned: [..., points]. Result: [...].
    """
    x, y = np.asarray(shares, dtype=np.float64), np.asarray(returned, dtype=np.float64)
    reached = y >= HALF - 1e-9
    return np.where(reached.any(axis=-1), x[np.argmax(reached, axis=-1)], 1.0)


def half_share(items: Deciding, answered: Answered) -> Estimate:
    """The smallest share tried that brings half of the items back, with its interval over passages.

    Of several draws, the mean of what each needs: one that begins with the right unit by luck doesn't make random
    orders good. Otherwise both bounds are shares that were tried, too.
    """
    return _estimate(items, _columns(answered), partial(_needed, answered), stepwise=True)


def half_difference(items: Deciding, one: Answered, other: Answered) -> Estimate:
    """How much more of the weights the other order needs to bring back half, on the same items."""
    columns = _columns(one)
    split = columns.shape[1]
    return _estimate(
        items,
        np.concatenate([columns, _columns(other)], axis=1),
        lambda means: _needed(other, means[..., split:]) - _needed(one, means[..., :split]),
        stepwise=True,
    )


def _columns(answered: Answered) -> FloatArray:
    """The items under each draw, one draw after the other: [items, draws · points]."""
    return np.concatenate([each.right for each in answered.series], axis=1)


def _needed(answered: Answered, means: FloatArray) -> FloatArray:
    """What the draws need on average to bring half back. means: of the columns: [..., draws · points] to [...]."""
    parts = np.split(means, len(answered.series), axis=-1)
    found = [crossing(each.shares, part) for each, part in zip(answered.series, parts, strict=True)]
    return np.asarray(np.mean(found, axis=0))


def mean_difference(
    items: Deciding, one: Answered, other: Answered, budgets: Sequence[float] | None = None
) -> Estimate:
    """The share of items that one order brings back more than the other, as a mean over budgets.

    budgets: None for all between the ends.
    """
    chosen = slice(1, -1) if budgets is None else np.isin(one.budgets, budgets)
    gained = (one.right[:, chosen] - other.right[:, chosen]).mean(axis=1, keepdims=True)
    return _estimate(items, gained, lambda means: np.asarray(means[..., 0]))


def _estimate(
    items: Deciding,
    columns: FloatArray,
    value: Callable[[FloatArray], FloatArray],
    *,
    stepwise: bool = False,
) -> Estimate:
    """A function of the means of columns [items, C], with a BCa interval over passages, else one by percentiles.

    value: from means [..., C] to [...]. stepwise: it jumps, so one passage fewer changes nothing or much. BCa, which
    needs that change, has no meaning there.
    """
    counted = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    sampled = resample(items.languages, items.passages)
    sums = totals(sampled, counted, pooled=np.ones(len(sampled.languages), dtype=bool))

    def of(totalled: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return value(totalled[..., -1, 1:] / totalled[..., -1, :1])

    observed, drawn, without = of(sums.observed), of(sums.drawn), of(sums.without)
    strata = [stratum.passages for stratum in sampled.strata]
    (bounds,) = bca_levels(np.array([observed]), drawn[:, None], without[:, None], strata, [LEVEL])
    low, high, method = float(bounds.low[0]), float(bounds.high[0]), "BCa"
    if stepwise or not bounds.defined[0]:
        tail = _tail(sampled.passages, len(strata))
        # Values that were drawn, not values between them.
        low, high = (float(each) for each in np.nanquantile(drawn, [tail, 1 - tail], method="inverted_cdf"))
        method = "percentile"
    found = float(observed)
    checked = len(columns) >= CHECKED_ITEMS
    return Estimate(found, min(low, found), max(high, found), len(columns), sampled.passages, method, checked)


def _tail(passages: int, strata: int) -> float:
    """What an interval by percentiles leaves out on each side, by Student's quantile instead of the normal one.

    Few passages underestimate the spread.
    """
    freedom = max(1, passages - strata)
    return float(stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(passages / freedom)))


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
