import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.measure.drops import (
    Accuracies,
    above_floor,
    chance,
    gap,
    mean_drop,
    mean_gap,
    normalized_drop,
    pool,
    pooled_drop,
    pooled_gap,
    raw_drop,
)


def test_the_papers_aggregates():
    choice = normalized_drop(0.900, 0.868, floor=chance(4))
    opened = normalized_drop(0.469, 0.378, floor=0.0)
    assert choice == pytest.approx(0.049, abs=5e-4)
    assert opened == pytest.approx(0.194, abs=5e-4)
    assert gap(opened, choice) == pytest.approx(0.145, abs=5e-4)
    assert normalized_drop(0.900, 0.868, floor=0.0) == pytest.approx(0.036, abs=5e-4)
    assert raw_drop(0.469, 0.378) == pytest.approx(0.091)


def test_the_papers_aggregates_from_counts():
    open_, choice = {"all": Accuracies(469, 378, 1000)}, {"all": Accuracies(900, 868, 1000)}
    assert pooled_gap(open_, choice, floor=chance(4)).value == pytest.approx(0.145, abs=5e-4)


def test_ten_points_above_the_floor_are_enough_and_less_is_not():
    assert normalized_drop(0.35, 0.35, floor=0.25) == 0.0
    assert normalized_drop(0.349, 0.30, floor=0.25) is None
    assert normalized_drop(0.1, 0.05, floor=0.0) == pytest.approx(0.5)
    assert not above_floor(0.0, 0.0)
    assert gap(None, 0.1) is None
    assert gap(0.1, None) is None


def test_aggregations_differ_and_name_what_they_leave_out():
    open_ = {
        "english": Accuracies(80, 40, 100),
        "bengali": Accuracies(2, 10, 40),
        "thai": Accuracies(0, 0, 0),
        "korean": Accuracies(10, 9, 20),
    }
    mean = mean_drop(open_, floor=0.0)
    assert mean.value == pytest.approx((0.5 + 0.1) / 2)
    assert mean.languages == ("english", "korean")
    assert mean.left_out == ("bengali", "thai")
    pooled = pooled_drop(open_, floor=0.0)
    assert pooled.value == pytest.approx((92 - 59) / 92)
    assert pooled.languages == ("english", "bengali", "korean")
    assert pooled.left_out == ("thai",)
    assert pool(open_) == Accuracies(92, 59, 160)


def test_a_gap_needs_both_drops_of_a_language():
    open_ = {"en": Accuracies(50, 25, 100), "bn": Accuracies(50, 25, 100), "th": Accuracies(50, 25, 100)}
    choice = {"en": Accuracies(85, 70, 100), "bn": Accuracies(30, 30, 100)}
    mean = mean_gap(open_, choice, floor=0.25)
    assert mean.value == pytest.approx(0.5 - 0.15 / 0.6)
    assert mean.languages == ("en",)
    assert mean.left_out == ("bn", "th")
    assert mean_gap({}, {}, floor=0.25).value is None
    assert pooled_gap({}, {}, floor=0.25).value is None


@given(st.floats(0.36, 1.0), st.floats(0.0, 1.0))
def test_losing_everything_above_the_floor_is_one_and_nothing_is_zero(base, floor_share):
    floor = 0.25 * floor_share
    assert normalized_drop(base, floor, floor=floor) == pytest.approx(1.0)
    assert normalized_drop(base, base, floor=floor) == 0.0
