"""Agreement with statsmodels, where it has the same quantity."""

import numpy as np
import pytest

from anomia.measure.rates import wilson
from anomia.measure.significance import holm, mcnemar

pytest.importorskip("statsmodels", reason="statsmodels, a peer for tests, is not installed")

from statsmodels.stats.contingency_tables import mcnemar as peer_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.95])
def test_exact_mcnemar(chance):
    for _ in range(20):
        base, arm = GENERATOR.random((2, 60)) < chance
        table = [[(base & arm).sum(), (base & ~arm).sum()], [(~base & arm).sum(), (~base & ~arm).sum()]]
        assert mcnemar(base, arm).p_value == pytest.approx(peer_mcnemar(table, exact=True).pvalue, abs=1e-12)


def test_holm():
    for _ in range(4):
        p_values = GENERATOR.random(9) ** 3
        ours = holm({str(place): p for place, p in enumerate(p_values)}, family="nine languages")
        assert list(ours.p_values.values()) == pytest.approx(list(multipletests(p_values, method="holm")[1]))


def test_wilson():
    for right, n in [(0, 10), (10, 10), (3, 40), (150, 200)]:
        assert wilson(right / n, n) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)
