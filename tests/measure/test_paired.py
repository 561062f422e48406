import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm, ttest_rel

from anomia.errors import DataError
from anomia.measure.paired import paired_difference, score_interval

Z = norm.ppf(0.975)


def score_by_search(difference, lost, won, n):
    """Tango's statistic with the nuisance parameter found by search instead of the closed form."""
    low, high = max(0.0, -difference), (1 - difference) / 2

    def surprise(won_rate):
        lost_rate = won_rate + difference
        return -(
            lost * np.log(max(lost_rate, 1e-300))
            + won * np.log(max(won_rate, 1e-300))
            + (n - lost - won) * np.log(max(1 - lost_rate - won_rate, 1e-300))
        )

    won_rate = minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    variance = n * (2 * won_rate + difference * (1 - difference))
    return (lost - won - n * difference) / np.sqrt(variance)


def test_the_published_example():
    """Airway hyper-responsiveness before and after transplantation (Fagerland et al. 2014, Table 3): 21 pairs."""
    low, high = score_interval(1, 7, 21)
    assert (float(low), float(high)) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(
    ("lost", "won", "n"), [(7, 1, 21), (3, 3, 50), (30, 10, 200), (60, 1, 100), (2, 0, 60)]
)
def test_bounds_are_where_the_score_reaches_its_quantile(lost, won, n):
    low, high = (float(bound) for bound in score_interval(lost, won, n))
    assert score_by_search(low, lost, won, n) == pytest.approx(Z, abs=2e-3)
    assert score_by_search(high, lost, won, n) == pytest.approx(-Z, abs=2e-3)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 200))
def test_mirrored_and_around_the_value(lost, won, same):
    n = lost + won + same
    if n == 0:
        return
    low, high = score_interval(lost, won, n)
    mirrored = score_interval(won, lost, n)
    assert (float(low), float(high)) == pytest.approx((-float(mirrored[1]), -float(mirrored[0])), abs=1e-8)
    assert -1 <= low <= (lost - won) / n <= high <= 1


def test_no_change_is_not_certainty():
    right = np.ones(100, dtype=bool)
    estimate = paired_difference(right, right)
    assert estimate is not None
    assert estimate.value == 0
    # Closed form where nothing changed: z² / (n + z²).
    assert estimate.high == pytest.approx(Z**2 / (100 + Z**2), abs=1e-6)
    assert estimate.low == pytest.approx(-estimate.high, abs=1e-8)
    assert not estimate.checked


def test_passages_widen_it_and_their_names_do_not_matter():
    base = np.repeat([True, False, True, True], 25)
    arm = np.repeat([False, False, True, True], 25)
    passages = np.repeat(np.arange(20), 5)
    alone, grouped = paired_difference(base, arm), paired_difference(base, arm, passages)
    named = paired_difference(base, arm, [f"p{19 - p}" for p in passages])
    assert alone is not None
    assert grouped is not None
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low)
    assert grouped == named
    assert grouped.clusters == 20
    assert alone.checked


def test_grades_between_0_and_1():
    generator = np.random.default_rng(0)
    base, arm = generator.beta(2, 2, 200), generator.beta(2, 3, 200)
    estimate = paired_difference(base, arm)
    assert estimate.value == pytest.approx(base.mean() - arm.mean())
    student = ttest_rel(base, arm).confidence_interval()
    # Right or wrong is the widest that grades can spread.
    assert estimate.low <= student.low
    assert estimate.high >= student.high
    with pytest.raises(DataError, match="0 to 1"):
        paired_difference([float("nan")], [1.0])


def test_edges():
    assert paired_difference([], []) is None
    with pytest.raises(DataError, match="join the records"):
        paired_difference([True], [True, False])
