"""How far an arm's next-token distributions are from base's, over many items.

`records.replied.kl_divergence` computes it for one item from what is stored: base's likeliest tokens, the arm's
log-probabilities of the same tokens, and both tails. Over this partition, the KL divergence is a lower bound
of the full one (data-processing inequality), and close to it if base's tail is small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anomia.measure.quantiles import quantile
from anomia.measure.rates import Estimate, rate, student_mean


class DivergenceSummary(NamedTuple):
    """KL(base ‖ arm) over items, in nats, and how often both have the same likeliest token.

    mean: with Student's interval over passages; None if all items share one passage.
    largest_tail: the largest probability that base gives to unstored tokens in any item.
    median_interval, upper_decile_interval: the quantiles with their intervals; None for too few items.
    """

    mean: Estimate | None
    median: float
    upper_decile: float
    top1_agreement: Estimate
    largest_tail: float
    median_interval: Estimate | None
    upper_decile_interval: Estimate | None


def summarize_divergence(
    divergences: ArrayLike,
    top1_agreement: ArrayLike,
    base_tails: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> DivergenceSummary | None:
    """Summary over items; None without items. divergences: nats: [items]. top1_agreement, base_tails, passages:
    [items].
    """
    values = np.asarray(divergences, dtype=np.float64)
    top = rate(top1_agreement, passages, level=level)
    if top is None:
        return None
    estimate = student_mean(values, passages, level=level, least=0.0)
    median, upper = (float(value) for value in np.quantile(values, [0.5, 0.9]))
    return DivergenceSummary(
        estimate,
        median,
        upper,
        top,
        float(np.max(base_tails)),
        *(quantile(values, place, passages, level=level) for place in (0.5, 0.9)),
    )
