"""Studies in which compression did nothing: base and arm answer by chance from the same item probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anomia.measure.fates import counts_of, fates, met
from anomia.measure.rates import Estimate, rate
from anomia.measure.significance import open_lost_more, paired_test
from anomia.measure.verdict import Evidence, decide

from .simulation import Cell, gap_side

STUDIES = 2_000
NO_ALARM = {"intact", "untestable", "inconclusive"}
# Items, mean probability of a right answer in open and in choice.
NULLS = ((40, 0.35, 0.9), (200, 0.45, 0.9), (200, 0.2, 0.6))


def null_pair(
    n: int, mean: float, generator: np.random.Generator, cluster_size: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right or wrong of base and arm, independent given each passage's own probability: [items, studies]."""
    chances = generator.beta(2 * mean, 2 * (1 - mean), size=(-(-n // cluster_size), STUDIES))
    chances = np.repeat(chances, cluster_size, axis=0)[:n]
    base, arm = (generator.random((2, n, STUDIES)) < chances).astype(np.float64)
    return base, arm


def false_alarms(n: int, open_mean: float, choice_mean: float, cluster_size: int) -> dict[str, float]:
    """How often each test, the gap and the verdict see what is not there."""
    generator = np.random.default_rng(0)
    open_ = null_pair(n, open_mean, generator, cluster_size)
    choice = null_pair(n, choice_mean, generator, cluster_size)
    sides = gap_side(open_, choice, Cell(n, cluster_size, 0.0, open_mean, 0.0, 0.0), 0.25)
    passages = np.arange(n) // cluster_size
    alarms = {"accuracy": 0, "open lost more": 0, "gap": 0, "verdict": 0}
    for study in range(STUDIES):
        base_open, arm_open, base_choice, arm_choice = (pair[:, study] > 0 for pair in (*open_, *choice))
        alarms["accuracy"] += paired_test(base_open, arm_open, passages).p_value < 0.05
        lost = open_lost_more(base_open, arm_open, base_choice, arm_choice, passages)
        alarms["open lost more"] += lost.p_value < 0.05
        estimates = [
            Estimate(side.value[study], side.low[study], side.high[study], n, n)
            if side.given[study]
            else None
            for side in sides
        ]
        gap = estimates[2]
        alarms["gap"] += gap is not None and not gap.low <= 0 <= gap.high
        index = fates(base_open, base_choice, arm_open, arm_choice)
        unsaid = met(index, "choice_only", "lost")
        evidence = Evidence(
            n,
            float(base_open.mean()),
            float(arm_open.mean()),
            float(base_choice.mean()),
            float(arm_choice.mean()),
            *estimates,
            counts_of(index),
            rate(met(index[unsaid], "lost"), passages[unsaid]),
        )
        alarms["verdict"] += decide(evidence).outcome not in NO_ALARM
    return {name: count / STUDIES for name, count in alarms.items()}
