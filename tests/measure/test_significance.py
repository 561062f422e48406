import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from anomia.errors import DataError
from anomia.measure.significance import holm, mcnemar, open_lost_more, paired_test, sign_flip

flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(flags)
def test_mcnemar_agrees_with_scipy(pairs):
    base, arm = np.array(pairs).T
    lost, changed = int((base & ~arm).sum()), int((base != arm).sum())
    expected = binomtest(lost, changed).pvalue if changed else 1.0
    assert mcnemar(base, arm).p_value == pytest.approx(expected, abs=1e-12)
    assert mcnemar(base, arm).changed == changed


@given(flags)
def test_a_sign_flip_of_single_items_is_mcnemars_test(pairs):
    base, arm = np.array(pairs).T
    flipped = sign_flip(base.astype(int) - arm)
    assert flipped.p_value == pytest.approx(mcnemar(base, arm).p_value, abs=1e-12)
    assert flipped.changed == mcnemar(base, arm).changed


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=10), st.sampled_from(["two-sided", "greater"]))
def test_a_sign_flip_is_what_all_sign_patterns_give(sums, alternative):
    every = [np.dot(signs, sums) for signs in itertools.product([-1, 1], repeat=len(sums))]
    observed = sum(sums)
    if alternative == "greater":
        expected = np.mean([total >= observed for total in every])
    else:
        expected = np.mean([abs(total) >= abs(observed) for total in every])
    assert sign_flip(sums, alternative=alternative).p_value == pytest.approx(expected, abs=1e-12)


def test_items_of_a_passage_flip_together():
    together = sign_flip([1] * 10, ["a"] * 5 + ["b"] * 5)
    assert together.p_value == 0.5
    assert (together.changed, together.units) == (2, 2)
    assert sign_flip([1] * 10).p_value == pytest.approx(2 / 1024)


def test_the_right_test_is_chosen():
    base, arm = [True] * 10, [False] * 10
    assert paired_test(base, arm).method == "exact McNemar"
    assert paired_test(base, arm, range(10)).method == "exact McNemar"
    assert paired_test(base, arm, [0, 0, *range(8)]).method == "sign flip over passages"


def test_open_lost_more():
    right, wrong = np.ones(20, dtype=bool), np.zeros(20, dtype=bool)
    assert open_lost_more(right, wrong, right, right).p_value < 1e-5
    assert open_lost_more(right, wrong, right, wrong).p_value == 1.0
    assert open_lost_more(right, right, right, wrong).p_value == 1.0


def test_holm_by_hand():
    ours = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5}, family="languages of one arm, open")
    assert ours.p_values == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5})
    assert list(ours.p_values) == ["a", "b", "c", "d"]
    assert ours.family == "languages of one arm, open"
    assert holm({}, family="none").p_values == {}


def test_shares_and_other_items_are_refused():
    with pytest.raises(DataError, match="whole numbers"):
        sign_flip([0.5])
    with pytest.raises(DataError, match="paired items"):
        mcnemar([True], [True, False])
