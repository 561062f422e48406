import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import DataError
from anomia.measure.bootstrap import resample
from anomia.measure.everywhere import everywhere
from anomia.measure.oracle import pass_at_k, recovery, recovery_over_control
from anomia.measure.quantities import minus, share


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples, data):
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    flags = [True] * right + [False] * (samples - right)
    expected = np.mean([any(subset) for subset in itertools.combinations(flags, k)])
    assert pass_at_k([right], samples, k)[0] == pytest.approx(expected, abs=1e-12)


def test_the_curve_starts_at_the_mean_and_ends_at_the_oracle():
    right = [0, 1, 5, 10]
    curve = [pass_at_k(right, 10, k).mean() for k in range(1, 11)]
    assert curve[0] == pytest.approx(0.4)
    assert curve[-1] == 0.75
    assert curve == sorted(curve)


def test_pass_at_k_refuses_the_impossible():
    with pytest.raises(DataError, match="pass@k"):
        pass_at_k([1], 10, 11)
    with pytest.raises(DataError, match="more right samples"):
        pass_at_k([11], 10, 1)


def test_recovery_splits_the_arms_failures():
    base_open = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    arm_open = np.array([1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    base_reached = np.array([1, 1, 1, 1, 1, 0, 0, 0], dtype=bool)
    arm_reached = np.array([1, 1, 1, 0, 1, 0, 0, 1], dtype=bool)
    control = np.array([0, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    found = recovery(base_open, arm_open, base_reached, arm_reached, control)
    assert (found.arm.value, found.arm.n) == (0.5, 6)
    assert (found.newly_broken.value, found.newly_broken.n) == (pytest.approx(2 / 3), 3)
    assert (found.failed_before.value, found.failed_before.n) == (pytest.approx(1 / 3), 3)
    assert (found.base.value, found.base.n) == (0.25, 4)
    assert found.control.value == pytest.approx(1 / 6)
    assert found.control_newly_broken.value == pytest.approx(1 / 3)
    assert found.control_failed_before.value == 0


def test_no_failure_no_recovery():
    right = np.ones(5, dtype=bool)
    assert set(recovery(right, right, right, right, ~right)) == {None}


def test_recovery_over_seeds_is_their_mean():
    wrong = np.zeros(2, dtype=bool)
    assert recovery(wrong, wrong, wrong, [0.4, 0.8], wrong).arm.value == pytest.approx(0.6)


def test_a_model_is_not_easier_to_recover_than_itself_but_its_new_failures_are():
    """The mixture that makes the paper's figure look large: base's failures are selected to be hard."""
    generator = np.random.default_rng(0)
    ease = generator.random(4000)
    base_open, arm_open = generator.random(4000) < ease, generator.random(4000) < ease
    reached = generator.random(4000) < ease
    found = recovery(base_open, arm_open, reached, reached, np.zeros(4000))
    assert found.newly_broken.low > found.failed_before.high
    assert found.arm.value == pytest.approx(found.base.value, abs=0.03)
    difference = minus(share(reached, ~arm_open), share(reached, ~base_open))
    over = everywhere(difference, resample(["a"] * 4000, draws=500)).pooled
    assert over.low < 0 < over.high


def test_recovery_over_the_control():
    arm_open = np.zeros(200, dtype=bool)
    reached, control = np.arange(200) < 120, np.arange(200) % 2 == 0
    resampling = resample(["a"] * 200, draws=500)
    over = everywhere(recovery_over_control(arm_open, reached, control), resampling).pooled
    assert over.value == pytest.approx(0.1)
    part = everywhere(
        recovery_over_control(arm_open, reached, control, among=np.arange(200) < 120), resampling
    ).pooled
    assert part.value == pytest.approx(0.5)
    assert part.low > 0.35
