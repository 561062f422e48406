import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.errors import DataError
from anomia.measure.bootstrap import resample
from anomia.measure.dissociation import Answers
from anomia.measure.everywhere import everywhere, everywhere_all, everywhere_levels
from anomia.measure.intervals import join, possible_normalized, range_apart, ratio_widening
from anomia.measure.paired import paired_difference
from anomia.measure.quantities import drop, expected_share, minus, net_share, normalized, share
from anomia.measure.rates import Estimate
from tests.measure.gap import gap_quantity


def study(seed=0, languages=3, items=120, chances=(0.5, 0.35, 0.9, 0.85)):
    generator = np.random.default_rng(seed)
    n = languages * items
    answers = Answers(*(generator.random(n) < chance for chance in chances))
    return answers, np.repeat([f"l{number}" for number in range(languages)], items)


def plain_gap(answers, mask, floor=0.25):
    """ΔPR by the formula, over the items under a mask."""
    base_open, arm_open, base_choice, arm_choice = (column[mask].mean() for column in answers)
    return (base_open - arm_open) / base_open - (base_choice - arm_choice) / (base_choice - floor)


def test_values_are_those_of_the_plain_formulas():
    answers, labels = study()
    found = everywhere(gap_quantity(*answers, floor=0.25), resample(labels, draws=500))
    by_language = {str(name): plain_gap(answers, labels == name) for name in np.unique(labels)}
    assert found.pooled.value == pytest.approx(plain_gap(answers, labels == labels))
    assert found.mean.value == pytest.approx(np.mean(list(by_language.values())))
    for name, estimate in found.by_language.items():
        assert estimate.value == pytest.approx(by_language[name])
        assert estimate.low < estimate.value < estimate.high
        assert estimate.n == estimate.clusters == 120
    assert found.pooled.n == 360


def test_a_weak_language_is_left_out_of_the_mean_by_name():
    answers, labels = study()
    base_open = answers.base_open & (labels != "l1")
    found = everywhere(
        normalized(base_open, answers.arm_open & base_open, floor=0.0), resample(labels, draws=500)
    )
    assert found.excluded == ("l1",)
    assert found.by_language["l1"] is None
    assert found.mean.n == 240
    assert found.mean.value == pytest.approx(
        (found.by_language["l0"].value + found.by_language["l2"].value) / 2
    )


def test_few_changed_items_get_the_score_interval_and_many_get_bca():
    base = np.array([True] * 80 + [False] * 40)
    few = base.copy()
    few[:5] = False
    resampling = resample(["a"] * 120, draws=500)
    found = everywhere(drop(base, few), resampling)
    plain = paired_difference(base, few)
    assert found.pooled[:3] == pytest.approx(plain[:3])
    assert (found.pooled.method, found.pooled.checked) == ("score", False)
    some = base.copy()
    some[:20] = False
    found = everywhere(drop(base, some), resampling)
    plain = paired_difference(base, some)
    assert found.pooled.method == "wider of BCa and score"
    assert found.pooled.low <= plain.low
    assert found.pooled.high >= plain.high
    assert found.pooled.checked
    many = base.copy()
    many[:40] = False
    assert everywhere(drop(base, many), resampling).pooled.method == "BCa over passages"


def test_a_gap_is_checked_where_one_side_changes_enough_and_base_has_enough_above_the_floor():
    """As in the simulation, in which choice may hardly change (`simulation.CHOICES`)."""
    n = 100
    place = np.arange(n)
    base_choice, arm_choice = place < 90, (place < 90) & (place > 2)

    def checked(right, lost):
        answers = place < right, (place >= lost) & (place < right), base_choice, arm_choice
        return everywhere(gap_quantity(*answers, floor=0.25), resample(["a"] * n, draws=200)).pooled.checked

    assert checked(right=40, lost=12)
    assert not checked(right=40, lost=8)


def test_a_normalized_drop_is_checked_where_base_has_ten_right_answers_above_the_floor():
    place, resampling = np.arange(60), resample(["a"] * 60, draws=200)
    arm = (place >= 20) & (place < 40)
    ten, nine = (
        everywhere(normalized(place < right, arm, floor=0.0), resampling).pooled for right in (10, 9)
    )
    assert (ten.checked, nine.checked) == (True, False)


@pytest.mark.parametrize("lost", [5, 20, 60])
def test_the_level_reaches_every_method(lost):
    base = np.array([True] * 80 + [False] * 40)
    arm = base.copy()
    arm[:lost] = False
    resampling = resample(["a"] * 120, draws=2000)
    quantity = gap_quantity(base, arm, np.ones(120), np.arange(120) >= lost, floor=0.25)
    wide, narrow = (everywhere(quantity, resampling, level=level).pooled for level in (0.95, 0.8))
    assert narrow.high - narrow.low < 0.8 * (wide.high - wide.low)


def test_the_base_against_itself_keeps_a_width():
    answers, labels = study()
    same = gap_quantity(
        answers.base_open, answers.base_open, answers.base_choice, answers.base_choice, floor=0.25
    )
    found = everywhere(same, resample(labels, draws=200))
    assert found.pooled.value == 0
    assert found.pooled.low < -0.005
    assert found.pooled.high > 0.005
    assert not found.pooled.checked


def test_a_difference_of_paired_sides_is_narrower_than_of_strangers():
    answers, labels = study()
    resampling = resample(labels, draws=2000)
    hard = answers.base_open & (np.random.default_rng(1).random(360) < 0.9)
    paired = everywhere(
        minus(share(answers.base_open, np.ones(360)), share(hard, np.ones(360))), resampling
    ).pooled
    one, other = (everywhere(share(x, np.ones(360)), resampling).pooled for x in (answers.base_open, hard))
    strangers = join(one, other)
    assert paired.value == pytest.approx(strangers.value)
    # BCa sees the pairing; the joined interval, which stands in for few changes, does not.
    assert strangers.high - strangers.low > 0.1
    assert everywhere(drop(answers.base_open, hard), resampling).pooled.high < strangers.high


def test_an_arm_that_is_better_than_base_has_the_wider_ratio():
    """The height's uncertainty adds to the drop's; the spread of simulated studies says by how much."""
    generator = np.random.default_rng(0)
    place = generator.choice(4, size=(200, 4000), p=[0.15, 0.05, 0.25, 0.55])
    base, arm = np.isin(place, [0, 1]).astype(float), np.isin(place, [0, 2]).astype(float)
    ratios = (base - arm).mean(axis=0) / base.mean(axis=0)
    known_height = (base - arm).mean(axis=0) / 0.2
    found = np.median(ratio_widening(base, arm, 0.0))
    assert found == pytest.approx(ratios.std() / known_height.std(), rel=0.08)
    assert found > 1.2
    # Where the arm is worse the height's uncertainty cancels some of the drop's, which is not counted on.
    assert (ratio_widening(arm, base, 0.0) == 1.0).mean() > 0.9


def test_one_pass_or_many_give_the_same():
    answers, labels = study()
    resampling = resample(labels, draws=300)
    quantities = {"open": normalized(*answers[:2], floor=0.0), "gap": gap_quantity(*answers, floor=0.25)}
    together = everywhere_all(quantities, resampling)
    for name, quantity in quantities.items():
        alone, among = everywhere(quantity, resampling), together[name]
        for one, other in ((alone.pooled, among.pooled), (alone.mean, among.mean)):
            assert one[:3] == pytest.approx(other[:3], abs=1e-9)
            assert one[3:] == other[3:]
        assert alone.excluded == among.excluded
    assert everywhere_all({}, resampling) == {}


@pytest.mark.parametrize("parallel", [False, True])
def test_pooled_figures_and_means_cover_the_languages_that_are_named(parallel):
    answers, labels = study()
    passages = np.tile(np.arange(120) // 2, 3) if parallel else np.arange(360) // 2
    gap = gap_quantity(*answers, passages, floor=0.25)
    found = everywhere(gap, resample(labels, passages, draws=2000), pooled=["l0", "l2"])
    mask = labels != "l1"
    fewer = gap_quantity(*(column[mask] for column in answers), passages[mask], floor=0.25)
    alone = everywhere(fewer, resample(labels[mask], passages[mask], draws=2000))
    assert found.excluded == ("l1",)
    assert found.by_language["l1"] is not None
    for one, other in ((found.pooled, alone.pooled), (found.mean, alone.mean)):
        assert one.value == pytest.approx(other.value)
        assert (one.n, one.clusters) == (other.n, other.clusters) == (240, 60 if parallel else 120)
        # Other draws of the same study.
        assert one[1:3] == pytest.approx(other[1:3], abs=0.02)
    nothing = everywhere(gap, resample(labels, passages, draws=100), pooled=())
    assert (nothing.pooled, nothing.mean, nothing.excluded) == (None, None, ("l0", "l1", "l2"))


def test_many_levels_in_one_pass_are_those_of_passes_of_their_own():
    answers, labels = study()
    resampling = resample(labels, draws=500)
    quantities = {"drop": drop(*answers[:2]), "gap": gap_quantity(*answers, floor=0.25)}
    levels = [1 - 0.05 / k for k in (1, 2, 3)]
    together = everywhere_levels(quantities, resampling, levels)
    assert list(together) == levels
    for level in levels:
        assert together[level] == everywhere_all(quantities, resampling, level=level)
    assert everywhere_levels({}, resampling, levels) == {level: {} for level in levels}


def test_a_net_share_is_what_fell_without_what_rose():
    answers, labels = study()
    base_open, arm_open, base_choice, arm_choice = answers
    both, after = base_open & base_choice, arm_open & arm_choice
    fell, rose = both & ~arm_open & arm_choice, ~base_open & base_choice & after
    found = everywhere(net_share(fell, rose, both), resample(labels, draws=500))
    assert found.pooled.value == pytest.approx((fell.sum() - rose.sum()) / both.sum())
    assert found.pooled.n == both.sum()
    assert found.pooled.low < found.pooled.value < found.pooled.high
    # Both directions alike, as between two runs of one model: nothing.
    as_many = ~both & (np.cumsum(~both) <= fell.sum())
    again = everywhere(net_share(fell, as_many, both), resample(labels, draws=500)).pooled
    assert again.value == 0
    assert again.low < -0.05
    assert again.high > 0.05
    with pytest.raises(DataError, match="those that rose do not"):
        net_share(fell, fell, both)


def test_shares_of_few_both_correct_items_are_not_given():
    fell, among = np.arange(60) < 3, np.arange(60) < 9
    resampling = resample(["a"] * 60, draws=50)
    for quantity in (net_share(fell, ~among, among), expected_share(~fell, among, among)):
        assert everywhere(quantity, resampling).pooled is None
    ten = np.arange(60) < 10
    assert everywhere(net_share(fell, ~ten, ten), resampling).pooled.value == pytest.approx(-4.7)


def test_a_net_share_without_changes_keeps_a_width():
    nothing, among = np.zeros(100, dtype=bool), np.arange(100) < 40
    found = everywhere(net_share(nothing, nothing, among), resample(["a"] * 100, draws=50)).pooled
    plain = paired_difference(nothing, nothing)
    assert (found.value, found.method, found.n) == (0, "score", 40)
    assert found.high == pytest.approx(plain.high / 0.4)


def test_the_expected_share_multiplies_what_each_format_did():
    answers, labels = study()
    base_open, arm_open, base_choice, arm_choice = answers
    both = base_open & base_choice
    found = everywhere(expected_share(arm_open, arm_choice, both), resample(labels, draws=500)).pooled
    assert found.value == pytest.approx((1 - arm_open[both].mean()) * arm_choice[both].mean())
    assert 0 <= found.low < found.value < found.high <= 1
    kept = everywhere(expected_share(both, both, both), resample(labels, draws=50)).pooled
    assert kept.value == 0
    assert kept.high > 0.01


@pytest.mark.parametrize(("n", "before", "after"), [(24, 6, 3), (40, 6, 2), (96, 12, 3)])
def test_no_more_can_be_lost_than_there_was(n, before, after):
    base = np.arange(n) < before
    arm = (np.arange(n) < after) | (np.arange(n) == n - 1)
    found = everywhere(normalized(base, arm, floor=0.0), resample(["a"] * n, draws=500)).pooled
    raw = paired_difference(base, arm)
    assert raw.high / base.mean() > 1
    assert found.high == 1
    assert found.value == pytest.approx(1 - (after + 1) / before)


def test_ranges_follow_from_what_base_may_be_and_add_up():
    assert possible_normalized(0.5, 0.0) == (-1, 1)
    assert possible_normalized(0.75, 0.25) == (-0.5, 1.5)
    assert possible_normalized(0.25, 0.25) == (-np.inf, np.inf)
    assert possible_normalized(0.0, 0.0) == (-np.inf, 1)
    assert range_apart((-1, 1), (-np.inf, 2)) == (-3, np.inf)


@st.composite
def studies(draw):
    """Answers of base and an arm in open and choice, in languages and passages: small, so that edges are met."""
    n = draw(st.integers(12, 40))
    columns = [np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))) for _ in range(4)]
    passages = np.arange(n) // draw(st.integers(1, 4))
    return Answers(*columns), np.where(np.arange(n) < n // 2, "l0", "l1"), passages


def all_quantities(answers, passages):
    base_open, arm_open, base_choice, arm_choice = answers
    both, after = base_open & base_choice, arm_open & arm_choice
    fell, rose = both & ~arm_open & arm_choice, base_choice & ~base_open & after
    return {
        "drop": (drop(base_open, arm_open, passages), -1, 1),
        "open": (normalized(base_open, arm_open, passages, floor=0.0), -np.inf, 1),
        "choice": (normalized(base_choice, arm_choice, passages, floor=0.25), -np.inf, np.inf),
        "gap": (gap_quantity(*answers, passages, floor=0.25), -np.inf, np.inf),
        "share": (share(fell, both, passages), 0, 1),
        "net": (net_share(fell, rose, both, passages), -np.inf, 1),
        "expected": (expected_share(arm_open, arm_choice, both, passages), 0, 1),
        "net - expected": (minus(net_share(fell, rose, both, passages),
                                 expected_share(arm_open, arm_choice, both, passages)), -np.inf, 1),
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(studies())
def test_bounds_hold_their_value_stay_possible_and_nest(study):
    answers, labels, passages = study
    known = all_quantities(answers, passages)
    levels = (0.8, 0.95, 0.99)
    found = everywhere_levels(
        {name: quantity for name, (quantity, *_) in known.items()},
        resample(labels, passages, draws=100),
        levels,
    )
    for name, (_, least, most) in known.items():
        places = zip(*([*(e := found[level][name]).by_language.values(), e.pooled, e.mean] for level in levels),
                     strict=True)  # fmt: skip
        for place in places:
            if place[0] is None:
                assert place == (None, None, None)
                continue
            for estimate in place:
                assert estimate.low <= estimate.value <= estimate.high
                assert least - 1e-9 <= estimate.low
                assert estimate.high <= most + 1e-9
            for narrow, wide in itertools.pairwise(place):
                assert wide.low <= narrow.low + 1e-9
                assert narrow.high <= wide.high + 1e-9
                assert narrow.method == wide.method


@settings(max_examples=60, deadline=None)
@given(studies())
def test_arms_that_change_places_change_the_sign(study):
    """Of drops, and of the net share where as many items count from either side."""
    (base, arm, _, _), labels, passages = study
    resampling = resample(labels, passages, draws=100)
    one, other = (everywhere(drop(*pair, passages), resampling).pooled for pair in ((base, arm), (arm, base)))
    assert one.value == pytest.approx(-other.value)
    fell, rose = base & ~arm, arm & ~base
    moved = min(fell.sum(), rose.sum())
    fell, rose = fell & (np.cumsum(fell) <= moved), rose & (np.cumsum(rose) <= moved)
    ways = ((fell, rose, base), (rose, fell, (base & ~fell) | rose))
    one, other = (everywhere(net_share(*way, passages), resampling).pooled for way in ways)
    assert (one is None) == (other is None) == (base.sum() < 10)
    if one is not None:
        assert one.value == other.value == 0
        assert one.method == other.method
        if one.method == "score":
            # No more than all can fall; what rises comes from outside and has no such bound.
            (low, high), (below, above) = ((max(each.low, -1), each.high) for each in (one, other))
            assert (low, high) == pytest.approx((-above, -below), abs=1e-6)


def test_join_is_mover():
    one, other = Estimate(0.5, 0.4, 0.7, 50, 50), Estimate(0.1, 0.0, 0.4, 60, 60)
    joined = join(one, other)
    assert joined.value == pytest.approx(0.4)
    assert joined.low == pytest.approx(0.4 - (0.1**2 + 0.3**2) ** 0.5)
    assert joined.high == pytest.approx(0.4 + (0.2**2 + 0.1**2) ** 0.5)
    assert joined.n == 50


def test_passages_widen_the_gap():
    answers, labels = study(items=40)
    repeated = Answers(*(np.repeat(column, 5) for column in answers))
    resampling = resample(np.repeat(labels, 5), np.repeat(np.arange(120), 5), draws=1000)
    grouped = everywhere(gap_quantity(*repeated, np.repeat(np.arange(120), 5), floor=0.25), resampling).pooled
    alone = everywhere(gap_quantity(*repeated, floor=0.25), resample(np.repeat(labels, 5), draws=1000)).pooled
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low)
    assert grouped.clusters == 120


def test_other_items_are_refused():
    with pytest.raises(DataError, match="same items"):
        everywhere(drop([True], [True]), resample(["a", "a"], draws=10))
    with pytest.raises(DataError, match="join the records"):
        drop([True], [True, False])
