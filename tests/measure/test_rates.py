import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from anomia.errors import DataError
from anomia.measure.rates import cluster, effective_items, mean_rate, rate, wilson


@given(st.integers(1, 400), st.data())
def test_wilson_agrees_with_scipy(n, data):
    right = data.draw(st.integers(0, n))
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    estimate = rate([True] * right + [False] * (n - right))
    assert estimate is not None
    assert estimate[1:3] == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.data())
def test_the_interval_holds_the_value_and_stays_within_0_and_1(values, data):
    passages = data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values)))
    estimate = rate(values, passages)
    assert estimate is not None
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    alone = rate(values)
    assert alone is not None
    assert estimate.high - estimate.low >= alone.high - alone.low - 1e-12


def test_edges():
    assert rate([]) is None
    one = rate([True])
    assert one is not None
    assert (one.value, one.high, one.n, one.clusters) == (1.0, 1.0, 1, 1)
    assert one.low < 0.25
    same_passage = rate([True] * 30 + [False] * 30, ["p"] * 60)
    assert same_passage is not None
    assert same_passage.clusters == 1
    assert same_passage.low < 0.1 < 0.9 < same_passage.high
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_whole_passages_right_or_wrong_are_worth_one_item_each():
    values = np.repeat([1.0, 0.0] * 20, 5)
    passages = np.repeat(np.arange(40), 5)
    worth = effective_items(values, cluster(passages, 200))
    assert 36 < worth < 41
    # All right: nothing to estimate dependence from, so every passage counts once.
    assert effective_items(np.ones(200), cluster(passages, 200)) == 40
    # Each passage half right: dependence helps, and is not credited.
    assert effective_items(np.tile([0.0, 1.0], 100), cluster(np.repeat(np.arange(100), 2), 200)) <= 200


def test_small_counts_are_marked():
    assert rate([True, False] * 25).checked
    assert not rate([True, False] * 24).checked
    assert not rate([True] * 9 + [False] * 91).checked
    assert rate([True] * 10 + [False] * 90).checked


def test_ungraded_values_and_missing_passages_are_refused():
    with pytest.raises(DataError, match="0 to 1"):
        rate([0.5, float("nan")])
    with pytest.raises(DataError, match="one id per item"):
        rate([True, False], ["p"])
    with pytest.raises(DataError, match="list of items"):
        rate([[True], [False]])


def test_the_mean_over_languages_of_one_language_is_its_rate():
    values = np.arange(80) % 3 == 0
    # Its variance is estimated from the sample, one degree of freedom less than in the design effect.
    assert mean_rate(values, ["a"] * 80)[:3] == pytest.approx(rate(values)[:3], abs=2e-3)
    assert mean_rate([], []) is None


@pytest.mark.parametrize(("chances", "sizes"), [((0.1, 0.5, 0.9), (60, 60, 60)), ((0.3, 0.95), (30, 200))])
@pytest.mark.parametrize("together", [1, 5])
def test_the_mean_over_languages_covers_the_truth(chances, sizes, together):
    generator = np.random.default_rng(0)
    languages = np.repeat(np.arange(len(chances)), sizes)
    passages = np.concatenate([1000 * n + np.arange(size) // together for n, size in enumerate(sizes)])
    hits = 0
    for _ in range(600):
        # Passages of five are all right or all wrong in one of three cases.
        luck = generator.random(passages.max() + 1)[passages]
        own = generator.random(len(passages))
        draw = np.where(generator.random(passages.max() + 1)[passages] < 1 / 3, luck, own)
        found = mean_rate(draw < np.array(chances)[languages], languages, passages)
        hits += found.low <= np.mean(chances) <= found.high
    assert hits / 600 >= 0.93
