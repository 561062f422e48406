import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import DataError
from anomia.measure.fates import FATES, FateCounts, count_fates, dissociation, dissociation_rate, fate, fates


def test_the_four_fates_and_none_where_base_fails():
    assert fate(True, True, True, True) == "kept"
    assert fate(True, True, False, True) == "choice_only"
    assert fate(True, True, True, False) == "open_only"
    assert fate(True, True, False, False) == "lost"
    for arm in itertools.product([True, False], repeat=2):
        for base in ([True, False], [False, True], [False, False]):
            assert fate(*base, *arm) is None


@given(st.lists(st.tuples(*[st.booleans()] * 4), max_size=60))
def test_arrays_agree_with_single_items(items):
    columns = np.array(items, dtype=bool).reshape(-1, 4).T
    single = [fate(*item) for item in items]
    assert [FATES[index] if index >= 0 else None for index in fates(*columns)] == single
    counts = count_fates(*columns)
    assert counts == FateCounts(*(single.count(name) for name in FATES))
    assert counts.both_correct == sum(name is not None for name in single)


def test_dissociation_rate():
    assert dissociation_rate(FateCounts(kept=8, choice_only=26, open_only=0, lost=1)) == 26 / 35
    assert dissociation_rate(FateCounts(0, 0, 0, 0)) is None


def test_no_rate_below_ten_both_correct_items():
    right = np.ones(9, dtype=bool)
    assert dissociation(right, right, ~right, right) is None
    right = np.ones(10, dtype=bool)
    estimate = dissociation(right, right, ~right, right, np.arange(10))
    assert estimate is not None
    assert (estimate.value, estimate.n, estimate.clusters) == (1.0, 10, 10)
    assert not estimate.checked


def test_rate_is_over_both_correct_items_only():
    base = np.array([True] * 20 + [False] * 20)
    arm_open = np.array([True] * 15 + [False] * 25)
    estimate = dissociation(base, base, arm_open, np.ones(40, dtype=bool))
    assert estimate is not None
    assert (estimate.value, estimate.n) == (0.25, 20)


def test_different_items_are_refused():
    with pytest.raises(DataError, match="same items"):
        count_fates([True], [True], [True, False], [True])
    with pytest.raises(DataError, match="0 or 1"):
        count_fates([0.5], [True], [True], [True])
    with pytest.raises(DataError, match="0 or 1"):
        count_fates([np.nan], [True], [True], [True])
