"""Whether broader decoding still finds an answer that greedy decoding missed.

Sources: paper, section 3.4 (Figure 4); pass@k by the unbiased estimator of Chen et al. 2021 (Codex).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from anomia.errors import DataError
from anomia.measure.quantities import Quantity, minus, share
from anomia.measure.rates import Estimate, rate, right_or_wrong


class Recovery(NamedTuple):
    """Shares of open failures that broader decoding recovers; None if there are no such failures.

    arm: among the arm's failures, the paper's figure. failed_before, newly_broken: its two parts, items
    that base failed too and items that base answered. base: base's recovery among its own failures.
    Newly broken items are inherently easier, so `arm` exceeds `base` even if compression left nothing
    nearer: compare `failed_before` with `base`, and every part with that of the control answer.
    control, control_failed_before, control_newly_broken: how often the arm's broader decoding finds the control.
    """

    arm: Estimate | None
    failed_before: Estimate | None
    newly_broken: Estimate | None
    base: Estimate | None
    control: Estimate | None
    control_failed_before: Estimate | None
    control_newly_broken: Estimate | None


def pass_at_k(right: ArrayLike, samples: int, k: int) -> NDArray[np.float64]:
    """Probability that at least one of k samples is right, if `right` of `samples` are: [items].

    1 − C(samples − right, k) / C(samples, k), the unbiased estimator. right: counts: [items].

    >>> float(pass_at_k([1], samples=10, k=5)[0])
    0.5
    """
    counts = np.asarray(right, dtype=np.float64)
    if not 1 <= k <= samples:
        raise DataError(f"pass@k needs 1 ≤ k ≤ {samples} samples, got k = {k}")
    if counts.size and not (counts.min() >= 0 and counts.max() <= samples):
        raise DataError(f"more right samples than the {samples} that were drawn, or fewer than none")
    wrong = samples - counts
    enough = wrong >= k
    left = np.where(enough, wrong, k)
    miss = np.exp(gammaln(left + 1) - gammaln(left - k + 1) - gammaln(samples + 1) + gammaln(samples - k + 1))
    return np.asarray(np.where(enough, 1 - miss, 1.0).clip(0, 1), dtype=np.float64)


def recovery(
    base_open: ArrayLike,
    arm_open: ArrayLike,
    base_reached: ArrayLike,
    arm_reached: ArrayLike,
    control_reached: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Recovery:
    """Recovery among open failures, its two parts and its placebo.

    base_open, arm_open: right or wrong with greedy decoding: [items].
    base_reached, arm_reached: whether any beam or sample contains a gold answer (with several seeds: the
    share of seeds). control_reached: whether any of the arm's contains the control. All [items], 0 to 1.
    """
    before, after = ~right_or_wrong(base_open), ~right_or_wrong(arm_open)
    ids = np.arange(len(before)) if passages is None else np.asarray(passages)

    def among(reached: ArrayLike, mask: NDArray[np.bool_]) -> Estimate | None:
        return rate(np.asarray(reached, dtype=np.float64)[mask], ids[mask], level=level)

    return Recovery(
        arm=among(arm_reached, after),
        failed_before=among(arm_reached, after & before),
        newly_broken=among(arm_reached, after & ~before),
        base=among(base_reached, before),
        control=among(control_reached, after),
        control_failed_before=among(control_reached, after & before),
        control_newly_broken=among(control_reached, after & ~before),
    )


def recovery_over_control(
    arm_open: ArrayLike,
    arm_reached: ArrayLike,
    control_reached: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    among: ArrayLike | None = None,
) -> Quantity:
    """Recovery of gold − that of the control among the arm's open failures (within `among`, if given): [items] each."""
    failed = ~right_or_wrong(arm_open)
    marked = failed if among is None else failed & right_or_wrong(among)
    return minus(share(arm_reached, marked, passages), share(control_reached, marked, passages))
