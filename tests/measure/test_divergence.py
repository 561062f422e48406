import numpy as np
import pytest

from anomia.measure.divergence import summarize_divergence


def test_summary():
    values = np.array([0.1, 0.2, 0.3, 0.4])
    found = summarize_divergence(values, [1, 1, 0, 1], [0.01, 0.2, 0.0, 0.0])
    assert found.mean.value == pytest.approx(0.25)
    assert found.mean.high - 0.25 == pytest.approx(3.1824 * values.std(ddof=1) / 2, rel=1e-4)
    assert found.median == pytest.approx(0.25)
    assert found.top1_agreement.value == 0.75
    assert found.largest_tail == 0.2
    one_passage = summarize_divergence(values, [1, 1, 0, 1], np.zeros(4), ["p"] * 4)
    assert one_passage.mean is None
    assert summarize_divergence([], [], []) is None


def test_quantiles_of_divergences_have_intervals():
    values = np.random.default_rng(0).exponential(size=200)
    found = summarize_divergence(values, np.ones(200), np.zeros(200))
    for value, interval in (
        (found.median, found.median_interval),
        (found.upper_decile, found.upper_decile_interval),
    ):
        assert interval.value == value
        assert 0 < interval.low < value < interval.high
        assert interval.checked
    few = summarize_divergence(values[:20], np.ones(20), np.zeros(20))
    assert few.median_interval is not None
    assert few.upper_decile_interval is None
