import numpy as np
import pytest

from anomia.measure.significance import mcnemar

from .null_studies import NULLS, false_alarms, null_pair

ALLOWED = 0.065


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [1, 5])
@pytest.mark.parametrize("null", NULLS, ids=str)
def test_false_alarms(null, cluster_size):
    found = false_alarms(*null, cluster_size)
    assert {name: share for name, share in found.items() if share > ALLOWED} == {}


def test_a_real_drop_does_raise_the_alarm():
    generator = np.random.default_rng(0)
    base, _ = null_pair(200, 0.5, generator)
    arm = base * (generator.random(base.shape) < 0.7)
    seen = np.mean([mcnemar(base[:, study] > 0, arm[:, study] > 0).p_value < 0.05 for study in range(200)])
    assert seen > 0.95
