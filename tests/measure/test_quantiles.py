import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from anomia.measure.quantiles import quantile


def test_bounds_of_independent_items_are_order_statistics():
    """Nine values: the second and the eighth hold the median in 96.1 of 100 samples (binomial tables)."""
    found = quantile(np.arange(1, 10))
    assert found[:5] == (5, 2, 8, 9, 9)
    assert stats.binom.cdf(7, 9, 0.5) - stats.binom.cdf(1, 9, 0.5) == pytest.approx(0.961, abs=1e-3)
    assert quantile(np.arange(1, 10), level=0.99)[1:3] == (1, 9)


def test_too_few_items_have_no_interval():
    assert quantile([]) is None
    assert quantile(range(5)) is None
    assert quantile(range(6))[1:3] == (0, 5)
    assert quantile(range(35), 0.9) is None
    assert quantile(range(36), 0.9).high == 35
    # All of one passage are worth one item.
    assert quantile(range(100), passages=["p"] * 100) is None


def test_a_median_is_checked_from_fifty_items_and_a_decile_from_a_hundred():
    assert [quantile(range(n)).checked for n in (49, 50)] == [False, True]
    assert [quantile(range(n), 0.9).checked for n in (99, 100)] == [False, True]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=80),
    st.sampled_from([0.25, 0.5, 0.9]),
    st.integers(1, 4),
)
def test_the_value_is_numpys_and_bounds_are_values_that_nest(values, place, size):
    passages = np.arange(len(values)) // size
    found = [quantile(values, place, passages, level=level) for level in (0.8, 0.95, 0.99)]
    for narrow, wide in itertools.pairwise(found):
        if wide is not None:
            assert narrow is not None
            assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high
    for estimate in found:
        if estimate is not None:
            assert estimate.value == np.quantile(values, place)
            # Or the value itself, which lies between two of them.
            assert {estimate.low, estimate.high} <= {*values, estimate.value}


STRUCTURES = [(10, 1, 0.0), (50, 1, 0.0), (50, 5, 0.2), (200, 5, 0.2), (200, 5, 0.5), (60, 15, 0.2)]


@pytest.mark.parametrize("place", [0.5, 0.9])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("n", "cluster_size", "correlation"), STRUCTURES)
def test_quantiles_cover_at_least_93_percent(n, cluster_size, correlation, tied, place):
    """Normal values, or ranks: whole numbers from 1, skewed, with ties; correlated within passages."""
    generator = np.random.default_rng(0)
    passages = np.arange(n) // cluster_size
    truth, covered = stats.norm.ppf(place), []
    for _ in range(400):
        shared = generator.normal(size=passages[-1] + 1)[passages]
        values = shared * correlation**0.5 + generator.normal(size=n) * (1 - correlation) ** 0.5
        true, seen = (np.floor(np.exp(1.3 * x + 1)) + 1 if tied else x for x in (truth, values))
        found = quantile(seen, place, passages)
        if found is not None:
            covered.append(found.low <= true <= found.high)
    assert len(covered) < 20 or np.mean(covered) >= 0.93
    assert len(covered) >= 20 or n < 100
