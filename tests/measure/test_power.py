import numpy as np
import pytest
from scipy import stats

from anomia.errors import StudyError
from anomia.measure.bootstrap import resample
from anomia.measure.everywhere import everywhere
from anomia.measure.paired import paired_difference
from anomia.measure.power import (
    Transition,
    in_reach,
    items_for_dissociation,
    items_for_gap,
    items_needed,
    rounded,
)
from anomia.measure.rates import Estimate, rate, wilson
from tests.measure.gap import gap_quantity


@pytest.mark.parametrize(("rate", "against"), [(0.2, 0.05), (0.7, 0.5), (0.1, 0.05)])
def test_a_dissociation_is_seen_with_the_power_that_was_asked(rate, against):
    need = items_for_dissociation(rate, 0.5, against=against)
    n = need.both_correct
    assert need.items == 2 * n
    seen = [wilson(k / n, n)[0] > against for k in range(n + 1)]
    power = float(stats.binom.pmf(np.arange(n + 1), n, rate)[seen].sum())
    assert 0.8 <= power < 0.9
    fewer = int(n * 0.8)
    seen = [wilson(k / fewer, fewer)[0] > against for k in range(fewer + 1)]
    assert float(stats.binom.pmf(np.arange(fewer + 1), fewer, rate)[seen].sum()) < 0.8


@pytest.mark.parametrize(
    ("open_", "choice"),
    [
        (Transition(0.5, 0.35, 0.05), Transition(0.9, 0.87, 0.02)),
        (Transition(0.3, 0.2, 0.02), Transition(0.9, 0.9, 0.01)),
        (Transition(0.5, 0.42, 0.03), Transition(0.9, 0.88, 0.02)),
    ],
)
def test_a_gap_is_seen_with_about_the_power_that_was_asked(open_, choice):
    n = items_for_gap(open_, choice, floor=0.25).items
    generator = np.random.default_rng(0)

    def column(part):
        lost = part.base - part.arm + part.gained
        chances = [part.base - lost, lost, part.gained, 1 - part.base - part.gained]
        place = generator.choice(4, size=n, p=chances)
        return np.isin(place, [0, 1]), np.isin(place, [0, 2])

    resampling = resample(["a"] * n, draws=1000)
    seen = 0
    for _ in range(200):
        gap = gap_quantity(*column(open_), *column(choice), floor=0.25)
        seen += everywhere(gap, resampling).pooled.low > 0
    assert 0.73 < seen / 200 < 0.9


def test_more_is_needed_for_less():
    open_, choice = Transition(0.5, 0.4), Transition(0.9, 0.87)
    some = items_for_gap(open_, choice, floor=0.25).items
    assert items_for_gap(open_, choice, floor=0.25, design_effect=2).items == pytest.approx(2 * some, abs=1)
    assert items_for_gap(open_._replace(arm=0.43), choice, floor=0.25).items > some
    assert items_for_gap(Transition(0.5, 0.5), Transition(0.9, 0.9), floor=0.25).items is None
    assert items_for_dissociation(0.05, 0.5).items is None
    assert items_for_dissociation(0.5, 0.0).items is None
    clustered = items_for_dissociation(0.2, 0.5, design_effect=1.5)
    assert clustered.both_correct == pytest.approx(1.5 * items_for_dissociation(0.2, 0.5).both_correct, abs=1)


def test_from_a_pilot():
    pilot = Estimate(0.1, 0.0, 0.2, 100, 100)
    # At 80 % power the half width must be (1.96 + 0.84) / 1.96 times smaller than the distance.
    assert items_needed(pilot, 0.0) == pytest.approx(205, abs=1)
    assert items_needed(pilot, 0.3) == pytest.approx(52, abs=1)
    assert items_needed(pilot, 0.1) is None
    base = np.array([True] * 50 + [False] * 50)
    arm = base.copy()
    arm[:6], arm[-2:] = False, True
    need = items_needed(paired_difference(base, arm), 0.0)
    assert 100 < need < 800


def test_a_rate_without_exceptions_needs_the_items_that_wilson_says():
    none, all_ = rate(np.zeros(10, bool)), rate(np.ones(10, bool))
    need = items_needed(none, 0.15)
    assert need == items_needed(all_, 0.85)
    highest = {n: stats.binomtest(0, n).proportion_ci(method="wilson").high for n in (need - 1, need)}
    assert highest[need] <= 0.15 < highest[need - 1]


def test_impossible_assumptions_are_named():
    with pytest.raises(StudyError, match="choose it between"):
        items_for_gap(Transition(0.5, 0.4, 0.6), Transition(0.9, 0.8), floor=0.25)
    with pytest.raises(StudyError, match="above the floor"):
        items_for_gap(Transition(0.5, 0.4), Transition(0.2, 0.2), floor=0.25)
    with pytest.raises(StudyError, match="share from 0 to 1"):
        items_for_dissociation(30, 0.5)


def test_numbers_claim_two_digits_and_some_are_out_of_reach() -> None:
    assert [rounded(n) for n in (7, 94, 100, 345, 718_461)] == [7, 94, 100, 350, 720_000]
    assert in_reach(1600, 32)
    assert not in_reach(1601, 32)
    assert not in_reach(None, 32)


def test_an_interval_that_excludes_nothing_needs_a_number_all_the_same() -> None:
    assert items_needed(Estimate(0.0, 0.0, 1.0, 5, 5, "wilson"), 0.1) is not None
