"""The rank of the gold answer's token in the next-token distribution.

Source: paper, section 3.3 (Figure 3). A rank is 1 + the number of strictly larger logits; tied tokens
share the middle of their ranks, so that a coarse dtype can't make an answer look near.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.quantiles import quantile
from anomia.measure.rates import Estimate, rate


class RankSummary(NamedTuple):
    """Ranks of one group of items.

    median, lower_quartile, upper_quartile: of mid-ranks. vocabulary_share: median rank over the vocabulary size, None
    if that is unknown or a rank exceeds it. tied: items whose token shares its logit with another.
    within_10, within_100: share of the items with a mid-rank of at most 10 or 100.
    …_interval: the same figure with its interval; None for a median of too few items.
    """

    n: int
    median: float
    lower_quartile: float
    upper_quartile: float
    vocabulary_share: float | None
    within_10: float
    within_100: float
    tied: int
    median_interval: Estimate | None
    within_10_interval: Estimate
    within_100_interval: Estimate


def mid_ranks(ranks: ArrayLike, ties: ArrayLike) -> NDArray[np.float64]:
    """The middle of the ranks that a token shares with tokens of equal logit: [items].

    ranks: 1 + number of strictly larger logits: [items]. ties: number of *other* tokens with an equal logit: [items].

    >>> mid_ranks([5], [3])
    array([6.5])
    """
    first, others = np.asarray(ranks, dtype=np.float64), np.asarray(ties, dtype=np.float64)
    if first.shape != others.shape:
        raise DataError(f"ranks and ties differ in shape: {first.shape} and {others.shape}")
    if first.size and (first.min() < 1 or others.min() < 0):
        raise DataError("a rank starts at 1 and ties at 0")
    return first + others / 2


def summarize_ranks(
    ranks: ArrayLike,
    ties: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    vocabulary: int | None,
    level: float = 0.95,
) -> RankSummary | None:
    """Summary of one group's ranks; None if the group is empty. ranks, ties, passages: [items].

    vocabulary: number of tokens that compete for the rank. A larger rank comes from a model with a larger vocabulary,
    for which no share can be given.
    """
    places = mid_ranks(ranks, ties)
    within_10, within_100 = (rate(places <= most, passages, level=level) for most in (10, 100))
    if within_10 is None or within_100 is None:
        return None
    lower, median, upper = (float(place) for place in np.quantile(places, [0.25, 0.5, 0.75]))
    return RankSummary(
        n=places.size,
        median=median,
        lower_quartile=lower,
        upper_quartile=upper,
        vocabulary_share=median / vocabulary if vocabulary and places.max() <= vocabulary else None,
        within_10=within_10.value,
        within_100=within_100.value,
        tied=int((np.asarray(ties) > 0).sum()),
        median_interval=quantile(places, 0.5, passages, level=level),
        within_10_interval=within_10,
        within_100_interval=within_100,
    )
