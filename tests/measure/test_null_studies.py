"""Studies in which compression did nothing: base and arm answer by chance from the same item probabilities."""

import numpy as np
import pytest

from anomia.measure.fates import FATES, count_fates, fates
from anomia.measure.rates import Estimate, rate
from anomia.measure.significance import mcnemar, open_fell_more, paired_test
from anomia.measure.verdict import Evidence, decide

from .simulation import Cell, gap_side

STUDIES = 2_000
ALLOWED = 0.065
NO_ALARM = {"intact", "untestable", "inconclusive"}


def null_pair(n, mean, generator, cluster_size=1):
    """Right or wrong of base and arm, independent given each item's own probability: [items, studies]."""
    chances = generator.beta(2 * mean, 2 * (1 - mean), size=(-(-n // cluster_size), STUDIES))
    chances = np.repeat(chances, cluster_size, axis=0)[:n]
    return tuple((generator.random((n, STUDIES)) < chances).astype(float) for _ in range(2))


@pytest.mark.parametrize("cluster_size", [1, 5])
@pytest.mark.parametrize(
    ("n", "open_mean", "choice_mean"), [(40, 0.35, 0.9), (200, 0.45, 0.9), (200, 0.2, 0.6)]
)
def test_false_alarms(n, open_mean, choice_mean, cluster_size):
    generator = np.random.default_rng(0)
    open_ = null_pair(n, open_mean, generator, cluster_size)
    choice = null_pair(n, choice_mean, generator, cluster_size)
    sides = gap_side(open_, choice, Cell(n, cluster_size, 0.0, open_mean, 0.0, 0.0), 0.25)
    passages = np.arange(n) // cluster_size
    alarms = {"accuracy": 0, "open fell more": 0, "gap": 0, "verdict": 0}
    for study in range(STUDIES):
        base_open, arm_open, base_choice, arm_choice = (pair[:, study] > 0 for pair in (*open_, *choice))
        alarms["accuracy"] += paired_test(base_open, arm_open, passages).p_value < 0.05
        fell = open_fell_more(base_open, arm_open, base_choice, arm_choice, passages)
        alarms["open fell more"] += fell.p_value < 0.05
        estimates = [
            Estimate(side.value[study], side.low[study], side.high[study], n, n)
            if side.given[study]
            else None
            for side in sides
        ]
        gap = estimates[2]
        alarms["gap"] += gap is not None and not gap.low <= 0 <= gap.high
        index = fates(base_open, base_choice, arm_open, arm_choice)
        unsaid = np.isin(index, [FATES.index("choice_only"), FATES.index("lost")])
        evidence = Evidence(
            n,
            base_open.mean(),
            arm_open.mean(),
            base_choice.mean(),
            arm_choice.mean(),
            *estimates,
            count_fates(base_open, base_choice, arm_open, arm_choice),
            rate(index[unsaid] == FATES.index("lost"), passages[unsaid]),
        )
        alarms["verdict"] += decide(evidence).outcome not in NO_ALARM
    assert {name: count / STUDIES for name, count in alarms.items() if count / STUDIES > ALLOWED} == {}


def test_a_real_drop_does_raise_the_alarm():
    generator = np.random.default_rng(0)
    base, _ = null_pair(200, 0.5, generator)
    arm = base * (generator.random(base.shape) < 0.7)
    seen = np.mean([mcnemar(base[:, study] > 0, arm[:, study] > 0).p_value < 0.05 for study in range(200)])
    assert seen > 0.95
