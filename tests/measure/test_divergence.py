import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from anomia.errors import DataError
from anomia.measure.divergence import kl_divergence, summarize_divergence


def full_kl(base, arm):
    return float(np.sum(np.exp(base) * (base - arm)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_a_partition_is_never_above_the_full_divergence(seed, kept):
    base, arm = log_softmax(np.random.default_rng(seed).normal(scale=3, size=(2, 30)), axis=1)
    order = np.argsort(-base)[:kept]
    tail = float(1 - np.exp(base[order]).sum())
    found = kl_divergence(base[order], tail, arm[order])
    assert 0 <= found <= full_kl(base, arm) + 1e-6
    if kept == 30:
        assert found == pytest.approx(full_kl(base, arm), abs=1e-5)


def test_no_divergence_from_itself_and_an_infinite_one():
    logs = np.log([0.6, 0.3])
    assert kl_divergence(logs, 0.1, logs) == pytest.approx(0, abs=1e-12)
    assert kl_divergence(logs, 0.1, np.array([0.0, -np.inf])) == np.inf
    with pytest.raises(DataError, match="different tokens"):
        kl_divergence(logs, 0.1, logs[:1])


def test_summary():
    values = np.array([0.1, 0.2, 0.3, 0.4])
    found = summarize_divergence(values, [1, 1, 0, 1], [0.01, 0.2, 0.0, 0.0])
    assert found.mean.value == pytest.approx(0.25)
    assert found.mean.high - 0.25 == pytest.approx(3.1824 * values.std(ddof=1) / 2, rel=1e-4)
    assert found.median == pytest.approx(0.25)
    assert found.same_top.value == 0.75
    assert found.largest_tail == 0.2
    one_passage = summarize_divergence(values, [1, 1, 0, 1], np.zeros(4), ["p"] * 4)
    assert one_passage.mean is None
    assert summarize_divergence([], [], []) is None
