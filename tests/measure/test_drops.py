import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.measure.bootstrap import resample
from anomia.measure.drops import above_floor, chance
from anomia.measure.everywhere import Everywhere, everywhere
from anomia.measure.quantities import drop, normalized
from tests.measure.gap import gap_quantity


def right(count: int, n: int) -> np.ndarray:
    return np.arange(n) < count


def measured(quantity, languages) -> Everywhere:
    return everywhere(quantity, resample(languages, draws=200))


def by_language(counts: dict[str, tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Base and arm of languages given as (right in base, right in the arm, items)."""
    base = np.concatenate([right(before, n) for before, _, n in counts.values()])
    arm = np.concatenate([right(after, n) for _, after, n in counts.values()])
    return base, arm, [name for name, (_, _, n) in counts.items() for _ in range(n)]


def test_the_papers_aggregates():
    opened, chosen = (right(469, 1000), right(378, 1000)), (right(900, 1000), right(868, 1000))
    everything = ["all"] * 1000
    values = {
        "open": normalized(*opened, floor=0.0),
        "choice": normalized(*chosen, floor=chance(4)),
        "choice, floor 0": normalized(*chosen, floor=0.0),
        "gap": gap_quantity(*opened, *chosen, floor=chance(4)),
        "raw": drop(*opened),
    }
    found = {name: measured(quantity, everything).pooled.value for name, quantity in values.items()}
    wanted = {"open": 0.194, "choice": 0.049, "choice, floor 0": 0.036, "gap": 0.145, "raw": 0.091}
    assert found == pytest.approx(wanted, abs=5e-4)


def test_ten_points_above_the_floor_are_enough_and_less_is_not():
    assert above_floor(0.35, 0.25)
    assert not above_floor(0.349, 0.25)
    assert above_floor(0.1, 0.0)
    assert not above_floor(0.0, 0.0)
    assert measured(normalized(right(349, 1000), right(300, 1000), floor=0.25), ["a"] * 1000).pooled is None


def test_aggregations_differ_and_name_what_they_leave_out():
    base, arm, languages = by_language(
        {"english": (80, 40, 100), "bengali": (2, 10, 40), "korean": (10, 9, 20)}
    )
    found = measured(normalized(base, arm, floor=0.0), languages)
    assert found.mean.value == pytest.approx((0.5 + 0.1) / 2)
    assert found.excluded == ("bengali",)
    assert found.pooled.value == pytest.approx((92 - 59) / 92)


def test_a_gap_needs_both_drops_of_a_language():
    base, arm, languages = by_language({"en": (50, 25, 100), "bn": (50, 25, 100)})
    before, after, _ = by_language({"en": (85, 70, 100), "bn": (30, 30, 100)})
    found = measured(gap_quantity(base, arm, before, after, floor=0.25), languages)
    assert found.mean.value == pytest.approx(0.5 - 0.15 / 0.6)
    assert found.excluded == ("bn",)


@given(st.integers(36, 100), st.integers(0, 100))
def test_losing_everything_above_the_floor_is_one_and_nothing_is_zero(base, floor_share):
    floor = 0.25 * floor_share / 100
    before = right(base, 100)
    nothing_left = np.full(100, floor)
    assert normalized(before, nothing_left, floor=floor).value(
        np.array([before.sum(), nothing_left.sum(), 100.0])
    ) == pytest.approx(1.0)
    assert measured(normalized(before, before, floor=floor), ["a"] * 100).pooled.value == 0.0
