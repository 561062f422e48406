"""How far an arm's next-token distribution lies from base's.

From what is stored: base's likeliest tokens, the arm's log-probabilities of the same tokens, and both
tails. Over that partition the KL divergence is a lower bound of the full one (data-processing inequality),
and close to it where base's tail is small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from anomia.errors import DataError
from anomia.measure.rates import CHECKED_ITEMS, Estimate, cluster, rate, student


class DivergenceSummary(NamedTuple):
    """KL(base ‖ arm) over items, in nats, and how often both have the same likeliest token.

    mean: with Student's interval over passages; None where all items share one passage.
    largest_tail: most of base's probability that lay outside the stored tokens of an item.
    """

    mean: Estimate | None
    median: float
    upper_decile: float
    same_top: Estimate
    largest_tail: float


def kl_divergence(base_log_probs: ArrayLike, base_tail: float, arm_log_probs: ArrayLike) -> float:
    """KL(base ‖ arm) in nats over base's likeliest tokens and the tail: a lower bound, at least 0.

    base_log_probs, arm_log_probs: of the same tokens: [tokens]. base_tail: base's probability of all others.
    Infinite where the arm gives no probability to what base may say.

    >>> round(kl_divergence(np.log([0.5, 0.25]), 0.25, np.log([0.25, 0.5])), 4)
    0.1733
    """
    base, arm = np.asarray(base_log_probs, dtype=np.float64), np.asarray(arm_log_probs, dtype=np.float64)
    if base.shape != arm.shape:
        raise DataError(f"log-probabilities of different tokens: {base.shape} and {arm.shape}")
    possible = np.isfinite(base)
    head = np.sum(np.exp(base[possible]) * (base[possible] - arm[possible]))
    # Sums of hundreds of rounded probabilities pass 1 by a few units in the last place of float32.
    arm_tail = max(1.0 - float(np.exp(arm).sum()), 1e-6)
    tail = base_tail * np.log(base_tail / arm_tail) if base_tail > 0 else 0.0
    return float(max(0.0, head + tail))


def summarize_divergence(
    divergences: ArrayLike,
    same_top: ArrayLike,
    base_tails: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> DivergenceSummary | None:
    """Summary over items: [items] each; None without items."""
    values = np.asarray(divergences, dtype=np.float64)
    top = rate(same_top, passages, level=level)
    if top is None:
        return None
    groups = cluster(passages, len(values))
    mean = float(values.mean())
    sums = np.bincount(groups.index, weights=values - mean, minlength=groups.count)
    estimate = None
    if groups.count > 1:
        error = (float(sums @ sums) * groups.count / (groups.count - 1)) ** 0.5 / len(values)
        half = student(groups.count - 1, level) * error
        # A divergence is never negative.
        low, high, checked = max(0.0, mean - half), mean + half, len(values) >= CHECKED_ITEMS
        estimate = Estimate(mean, low, high, len(values), groups.count, "Student over passages", checked)
    median, upper = (float(value) for value in np.quantile(values, [0.5, 0.9]))
    return DivergenceSummary(estimate, median, upper, top, float(np.max(base_tails)))
