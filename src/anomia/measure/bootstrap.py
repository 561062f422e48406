"""Bootstrap over passages, stratified by language, for any figure that is a function of sums over items.

Sources: Efron 1987 (BCa); Davison and Hinkley 1997, section 5.3.2 (acceleration with strata); Hesterberg
2015 (percentiles widened to Student's quantiles, needed with few passages). The draws are weights
[draws, passages], so one matrix product gives all draws of every sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats
from scipy.sparse.csgraph import connected_components

from anomia.errors import DataError
from anomia.measure.rates import cluster, student

FloatArray = NDArray[np.float64]

DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class Stratum:
    """Languages whose passages are drawn together, and how often each draw takes each passage.

    languages, passages: their indices. weights: [draws, passages of the stratum].
    """

    languages: NDArray[np.intp]
    passages: NDArray[np.intp]
    weights: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Resampling:
    """The draws, made once for all figures and arms, so that differences between arms are paired.

    languages: names, in the order of the language axis. language, passage: indices of each item: [items].
    passages: number of passages.
    """

    languages: tuple[str, ...]
    language: NDArray[np.intp]
    passage: NDArray[np.intp]
    passages: int
    strata: tuple[Stratum, ...]


class Totals(NamedTuple):
    """Sums of columns over items. observed: [languages, …]. drawn: [draws, languages, …].

    without: with one passage left out at a time: [passages, languages, …]. The sum over several languages, if
    requested, is the last entry of the language axis.
    """

    observed: FloatArray
    drawn: FloatArray
    without: FloatArray


class Interval(NamedTuple):
    """Bounds of K figures: [K] each. defined: whether BCa is defined, which it isn't where nothing varies."""

    low: FloatArray
    high: FloatArray
    defined: NDArray[np.bool_]


def resample(
    languages: Sequence[str] | ArrayLike,
    passages: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Resampling:
    """Draw passages with replacement within each language.

    languages, passages: of each item: [items]; without passages, each item is its own. Languages that share a passage
    (a parallel data set) form one stratum: a draw takes a passage in all of them at once.
    """
    labels = np.asarray(languages, dtype=np.str_)
    if not labels.size:
        raise DataError("nothing to resample: there are no items")
    names, language = np.unique(labels, return_inverse=True)
    groups = cluster(passages, len(labels))
    # The strata are the connected components of the graph that links each passage with its languages.
    size = len(names) + groups.count
    links = sparse.coo_array(
        (np.ones(len(labels)), (language, len(names) + groups.index)), shape=(size, size)
    )
    count, component = connected_components(links, directed=False)
    members = [np.flatnonzero(component[len(names) :] == number) for number in range(count)]
    weights = _draw_all(tuple(len(member) for member in members), draws, seed)
    strata = [
        Stratum(np.flatnonzero(component[: len(names)] == number), member, drawn)
        for number, (member, drawn) in enumerate(zip(members, weights, strict=True))
    ]
    return Resampling(tuple(str(name) for name in names), language, groups.index, groups.count, tuple(strata))


def totals(resampling: Resampling, columns: ArrayLike, *, pooled: NDArray[np.bool_] | None = None) -> Totals:
    """Sums of columns [items, …] over each language: observed, in every draw, and without each passage.

    pooled: mask of the languages whose common sum is appended: [languages]; None appends nothing.
    """
    values = np.asarray(columns, dtype=np.float64)
    rest, width = values.shape[1:], int(np.prod(values.shape[1:], dtype=np.int64))
    flat = values.reshape(len(values), width)
    cells = resampling.passages * len(resampling.languages)
    cell = resampling.passage * len(resampling.languages) + resampling.language
    sums = sparse.coo_array((np.ones(len(cell)), (cell, np.arange(len(cell)))), shape=(cells, len(cell)))
    parts = np.asarray(sums.tocsr() @ flat).reshape(resampling.passages, len(resampling.languages), width)
    draws = len(resampling.strata[0].weights)
    # [width, languages, draws]: the draws of one sum are contiguous, because figures read and sort them whole.
    drawn = np.empty((width, len(resampling.languages) + (pooled is not None), draws))
    for stratum in resampling.strata:
        block = parts[np.ix_(stratum.passages, stratum.languages)]  # [passages, languages, width]
        product = block.reshape(len(block), -1).T.astype(np.float32) @ stratum.weights.T
        drawn[:, stratum.languages] = product.reshape(len(stratum.languages), width, draws).swapaxes(0, 1)
    if pooled is not None:
        np.sum(drawn[:, :-1], axis=1, out=drawn[:, -1], where=pooled[:, None])
        parts = np.concatenate([parts, parts[:, pooled].sum(axis=1, keepdims=True)], axis=1)
    observed = parts.sum(axis=0)  # [languages, width]
    return Totals(
        observed.reshape(-1, *rest),
        drawn.transpose(2, 1, 0).reshape(draws, -1, *rest),
        (observed - parts).reshape(resampling.passages, -1, *rest),
    )


def bca_levels(
    observed: FloatArray,
    drawn: FloatArray,
    without: FloatArray,
    strata: Sequence[NDArray[np.intp]],
    levels: Sequence[float],
) -> list[Interval]:
    """Bias-corrected and accelerated bounds of K figures at several levels, in their order.

    observed: [K]. drawn: [draws, K]; NaN where a draw leaves the figure undefined.
    without: with one passage left out at a time: [passages, K]. strata: the passages of each stratum.
    """
    usable = np.isfinite(drawn)
    share = usable.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = ((drawn < observed - 1e-12).sum(axis=0) + (drawn < observed + 1e-12).sum(axis=0)) / 2
        bias = stats.norm.ppf(below / usable.sum(axis=0))  # [K]
    acceleration, spread = _acceleration(without, strata)
    defined = np.isfinite(observed) & np.isfinite(bias) & (spread > 0) & (share >= 0.99)
    ordered = np.sort(np.where(usable, drawn, np.inf), axis=0)
    last = usable.sum(axis=0) - 1

    def bound(side: float) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            shifted = bias + side
            place = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
            # Past its pole the correction reverses; the extreme draw is the bound there.
            place = np.where(acceleration * shifted < 1, place, 1.0 if side > 0 else 0.0)
            return _at(ordered, np.where(defined, place, 0.5), last)

    found = []
    for level in levels:
        wide = _widened(strata, level)
        low, high = bound(-wide), bound(wide)
        found.append(Interval(np.minimum(low, observed), np.maximum(high, observed), defined))
    return found


# All arms are asked the same items, so most resamplings of a run are equal; one takes 70 MB at 1,800 passages.
@lru_cache(maxsize=4)
def _draw_all(sizes: tuple[int, ...], draws: int, seed: int) -> tuple[NDArray[np.float32], ...]:
    """The draws of each stratum, given its number of passages: [draws, passages] each, read-only."""
    generator = np.random.default_rng(seed)
    weights = tuple(_draw(generator, size, draws) for size in sizes)
    for drawn in weights:
        drawn.setflags(write=False)
    return weights


def _draw(generator: np.random.Generator, passages: int, draws: int) -> NDArray[np.float32]:
    """How often each draw takes each passage: [draws, passages]."""
    taken = generator.integers(0, passages, size=(draws, passages))
    taken += np.arange(draws)[:, None] * passages
    counts = np.bincount(taken.ravel(), minlength=draws * passages)
    return counts.reshape(draws, passages).astype(np.float32)


def _acceleration(without: FloatArray, strata: Sequence[NDArray[np.intp]]) -> tuple[FloatArray, FloatArray]:
    """Acceleration of each figure (skewness of the passages' influence), and the sum of squared influence: both [K]."""
    cubes, squares = np.zeros(without.shape[1]), np.zeros(without.shape[1])
    for member in strata:
        if len(member) < 2:
            continue
        left_out = without[member]
        influence = (left_out.mean(axis=0) - left_out) * (len(member) - 1) / len(member)  # [passages, K]
        squares += (influence**2).sum(axis=0)
        cubes += (influence**3).sum(axis=0)
    squares[~(squares > 1e-20)] = 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(squares > 0, cubes / (6 * squares**1.5), 0.0), squares


def _widened(strata: Sequence[NDArray[np.intp]], level: float) -> float:
    """Student's quantile times √(passages / freedom), not the normal one: few passages underestimate the spread."""
    passages = sum(len(member) for member in strata)
    freedom = max(1, passages - len(strata))
    return student(freedom, level) * float((passages / freedom) ** 0.5)


def _at(ordered: FloatArray, place: FloatArray, last: NDArray[np.intp]) -> FloatArray:
    """The quantile `place` [K] of the finite draws in `ordered` [draws, K], up to row `last` [K], interpolated: [K]."""
    position = place * np.maximum(last, 0)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, np.maximum(last, 0))
    column = np.arange(ordered.shape[1])
    share = position - lower
    return np.where(
        share > 0,
        ordered[lower, column] * (1 - share) + ordered[upper, column] * share,
        ordered[lower, column],
    )
