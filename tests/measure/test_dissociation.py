import numpy as np
import pytest

from anomia.measure.bootstrap import resample
from anomia.measure.dissociation import Answers, dissociation, expected_dissociation, net_dissociation
from anomia.measure.everywhere import everywhere
from anomia.measure.fates import count_fates, transitions

N = 400


def answers(seed=0):
    generator = np.random.default_rng(seed)
    return Answers(*(generator.random(N) < chance for chance in (0.6, 0.35, 0.9, 0.8)))


def of_all(quantity):
    return everywhere(quantity, resample(["a"] * N, draws=200)).pooled


def test_the_rate_is_over_both_correct_items_only():
    found = answers()
    counts = count_fates(found.base_open, found.base_choice, found.arm_open, found.arm_choice)
    estimate = of_all(dissociation(found))
    assert estimate.value == pytest.approx(counts.dissociation)
    assert estimate.n == counts.both_correct


def test_the_net_rate_subtracts_the_way_back():
    found = answers()
    table = transitions(found.base_open, found.base_choice, found.arm_open, found.arm_choice)
    there, back, both = table[0, 1], table[1, 0], table[0].sum()
    assert back > 0
    assert of_all(net_dissociation(found)).value == pytest.approx((there - back) / both)
    # Base against another run of itself: what goes one way comes back.
    swapped = Answers(found.arm_open, found.base_open, found.arm_choice, found.base_choice)
    reverse = of_all(net_dissociation(swapped)).value * table[:, 0].sum()
    assert reverse == pytest.approx(-(there - back))


def test_the_expected_rate_multiplies_the_two_drops():
    found = answers()
    both = found.base_open & found.base_choice
    expected = (~found.arm_open[both]).mean() * found.arm_choice[both].mean()
    assert of_all(expected_dissociation(found)).value == pytest.approx(expected)
