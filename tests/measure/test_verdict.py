from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.measure.fates import FateCounts
from anomia.measure.rates import Estimate
from anomia.measure.verdict import Decision, Evidence, Outcome, Thresholds, decide, state
from anomia.measure.verdict_text import SWAPPED, explain, headline

HOLDS, FALLS, OPEN = (0.02, -0.03, 0.08), (0.4, 0.3, 0.5), (0.08, -0.05, 0.2)


def estimate(bounds, n=200):
    if bounds is None:
        return None
    return Estimate(*bounds, n, n)


def evidence(open_=HOLDS, choice=HOLDS, gap=(0.0, -0.05, 0.05), *, lost=(0.1, 0.05, 0.2), **more):
    values = {
        "n": 200,
        "base_open": 0.5,
        "arm_open": 0.3,
        "base_choice": 0.9,
        "arm_choice": 0.87,
        "open_drop": estimate(open_),
        "choice_drop": estimate(choice),
        "gap": estimate(gap),
        "fates": FateCounts(50, 40, 1, 3),
        "lost": estimate(lost),
    }
    return Evidence(**(values | more))


MORE, LESS, ALIKE, UNCLEAR = (0.3, 0.2, 0.4), (-0.3, -0.4, -0.2), (0.0, -0.06, 0.06), (0.1, -0.05, 0.3)


@pytest.mark.parametrize(
    ("open_", "choice", "gap", "outcome"),
    [
        (HOLDS, HOLDS, ALIKE, "intact"),
        (FALLS, HOLDS, MORE, "illusion"),
        (HOLDS, FALLS, LESS, "reverse"),
        (FALLS, FALLS, MORE, "mixed"),
        (FALLS, FALLS, ALIKE, "loss"),
        (FALLS, FALLS, LESS, "reverse"),
        (FALLS, FALLS, UNCLEAR, "inconclusive"),
        (FALLS, OPEN, MORE, "inconclusive"),
        (OPEN, HOLDS, UNCLEAR, "inconclusive"),
        (OPEN, FALLS, LESS, "reverse"),
        (OPEN, FALLS, UNCLEAR, "inconclusive"),
        (HOLDS, OPEN, UNCLEAR, "inconclusive"),
    ],
)
def test_the_table(open_, choice, gap, outcome):
    assert decide(evidence(open_, choice, gap)).outcome == outcome


bounds = st.lists(st.floats(-1, 2), min_size=3, max_size=3).map(sorted).map(lambda x: (x[1], x[0], x[2]))


@given(bounds, bounds, bounds, bounds, st.booleans())
def test_every_evidence_has_one_outcome_and_only_bounds_decide(open_, choice, gap, lost, near):
    more = {"near": {"ranks": estimate((0.3, 0.2, 0.4))}} if near else {}
    found = decide(evidence(open_, choice, gap, lost=lost, **more))
    assert found.outcome in get_args(Outcome)
    assert (found.outcome == "inconclusive") == bool(found.possible)
    # Moving the points between their bounds changes nothing but the number of items needed.
    moved = [(0.5 * (low + high), low, high) for _, low, high in (open_, choice, gap, lost)]
    assert decide(evidence(*moved[:3], lost=moved[3], **more))[:5] == found[:5]
    if found.outcome in ("intact", "illusion", "demotion"):
        assert choice[2] <= 0.1
    if found.outcome in ("mixed", "loss"):
        assert open_[1] > 0
        assert choice[1] > 0


@given(bounds, bounds, bounds)
def test_what_is_possible_is_what_narrower_intervals_can_give(open_, choice, gap):
    found = decide(evidence(open_, choice, gap))
    if found.outcome != "inconclusive":
        return

    def narrowed(interval, told):
        if told != "undecided":
            return [interval]
        _, low, high = interval
        return [(low, low, min(high, 0.1)), (high, max(low, 1e-6), high)]

    gaps = (
        [gap]
        if gap[1] > 0 or gap[2] < 0
        else [(gap[1], gap[1], min(0.05, gap[2])), (gap[2], 1e-6, max(gap[2], 1e-6))]
    )
    outcomes = {
        decide(evidence(one, other, third)).outcome
        for one in narrowed(open_, found.open)
        for other in narrowed(choice, found.choice)
        for third in gaps
    }
    assert outcomes - {"inconclusive"} <= set(found.possible) | {"reverse"}


def test_lost_that_dominates_is_loss_even_where_open_fell_more():
    # 45 % of the items no longer said are seen lost: with four options that is 60 % lost.
    lost = evidence(FALLS, FALLS, MORE, lost=(0.5, 0.45, 0.55))
    assert decide(lost).outcome == "loss"
    assert decide(evidence(FALLS, FALLS, MORE, lost=(0.4, 0.36, 0.45))).outcome == "mixed"
    assert decide(evidence(FALLS, FALLS, MORE, lost=(0.4, 0.36, 0.45), floor=0.5)).outcome == "loss"
    assert decide(evidence(FALLS, HOLDS, MORE, lost=(0.5, 0.45, 0.55))).outcome == "illusion"


def test_demotion_needs_an_answer_nearer_than_its_foil():
    near, not_near = estimate((0.4, 0.3, 0.5)), estimate((0.1, -0.1, 0.3))
    assert decide(evidence(FALLS, HOLDS, MORE, near={"ranks": not_near})).outcome == "illusion"
    found = decide(evidence(FALLS, HOLDS, MORE, near={"ranks": near, "reach": not_near}))
    assert (found.outcome, found.near) == ("demotion", ("ranks",))
    assert decide(evidence(near={"ranks": near})).outcome == "intact"


def test_before_all_else():
    broken = evidence(FALLS, FALLS, MORE, broken=estimate((0.8, 0.7, 0.9)))
    assert decide(broken).outcome == "broken"
    assert decide(evidence(broken=estimate((0.55, 0.45, 0.65)))).outcome == "intact"
    assert decide(evidence(fates=FateCounts(9, 0, 0, 0))).outcome == "untestable"
    assert decide(evidence(fates=FateCounts(10, 0, 0, 0))).outcome == "intact"
    for missing in ("open_", "choice", "gap"):
        assert decide(evidence(**{missing: None})).outcome == "untestable"
    assert decide(evidence(OPEN, OPEN, UNCLEAR, identical=True)).outcome == "intact"


def test_thresholds_are_options():
    strict = Thresholds(hold=0.05)
    assert state(estimate(HOLDS), 0.05) == "undecided"
    assert decide(evidence(), strict).outcome == "inconclusive"
    assert decide(evidence(FALLS, FALLS, ALIKE), Thresholds(same_gap=0.01)).outcome == "inconclusive"
    assert (
        decide(evidence(fates=FateCounts(10, 0, 0, 0)), Thresholds(fewest_both_correct=11)).outcome
        == "untestable"
    )
    assert decide(evidence(FALLS, FALLS, MORE), Thresholds(lost=0.05)).outcome == "loss"
    assert decide(evidence(broken=estimate((0.55, 0.45, 0.65))), Thresholds(broken=0.4)).outcome == "broken"
    near = {"ranks": estimate((0.4, 0.3, 0.5))}
    assert decide(evidence(FALLS, HOLDS, MORE, near=near), Thresholds(near=0.35)).outcome == "illusion"


def test_the_items_that_would_decide():
    found = decide(evidence(FALLS, (0.02, -0.13, 0.17), MORE))
    assert found.possible == ("illusion", "mixed")
    # 0.15 must shrink to 0.08, with 80 % power by another factor of 1.43: 200 · (1.43 · 0.15 / 0.08)².
    assert found.items_needed == pytest.approx(1436, rel=0.01)
    assert decide(evidence(FALLS, FALLS, UNCLEAR)).items_needed > 200


def test_words_for_a_release_manager():
    text = explain(
        evidence(
            FALLS,
            HOLDS,
            MORE,
            base_open=0.5,
            arm_open=0.295,
            base_choice=0.9,
            arm_choice=0.864,
            fates=FateCounts(8, 26, 0, 1),
        ),
        Decision("illusion", "falls", "holds"),
    )
    assert "Choice kept 96 % of its accuracy, open answers lost 41 %." in text
    assert "Of 35 questions that base answered both ways, 26 are recognised but no longer said" in text
    assert "1 is lost to both, and 8 are still said" in text
    assert "open 40 % (30 % to 50 %)" in text


def test_words_for_easy_options():
    one, other = Decision("illusion", "falls", "holds"), Decision("loss", "falls", "falls")
    assert "recognition rested on easy options" in explain(evidence(FALLS, HOLDS), one, other)
    assert "give the same outcome" in explain(evidence(FALLS, HOLDS), one, one)
    weak = explain(evidence(FALLS, HOLDS), one, Decision("untestable", "undecided", "undecided"))
    assert "stays open" in weak


def test_words_for_the_rest():
    undecided = decide(evidence(FALLS, OPEN, MORE))
    text = explain(evidence(FALLS, OPEN, MORE), undecided)
    assert "Open fell and choice may have held or fallen: illusion or mixed." in text
    assert "items like these would decide it" in text
    weak = evidence(base_open=0.05, fates=FateCounts(3, 1, 0, 0), left_out=("bengali", "telugu"))
    text = explain(weak, decide(weak))
    assert "Base answers 5 % in open and 90 % in choice, 4 questions both ways, of 200." in text
    assert "bengali and telugu" in text
    assert text.startswith("Base answers too few of these questions both ways")
    beneath = evidence(base_open=0.02, gap=None)
    assert explain(beneath, decide(beneath)).startswith("Base itself is too weak")
    broken = evidence(broken=estimate((0.8, 0.7, 0.9)))
    assert "80 % more of its outputs" in explain(broken, decide(broken))
    same = evidence(identical=True)
    assert "equals base's" in explain(same, decide(same))
    near = evidence(FALLS, HOLDS, MORE, near={"ranks": estimate((0.4, 0.3, 0.5))})
    assert "by ranks" in explain(near, decide(near))
    improved = explain(evidence(arm_open=0.6, base_open=0.5), Decision("intact", "holds", "holds"))
    assert "open answers gained 20 %" in improved
    assert len({headline(outcome) for outcome in get_args(Outcome)}) == len(get_args(Outcome))


def test_options_of_the_same_passage_come_with_both_rates():
    undecided = decide(evidence(FALLS, OPEN, MORE))
    text = explain(evidence(FALLS, OPEN, MORE, fates=FateCounts(1, 12, 0, 0)), undecided, undecided, FateCounts(6, 4, 0, 0))  # fmt: skip
    assert "same outcome" not in text
    assert (
        "(4 of 10 questions, 40 %, picked but no longer said; 12 of 13 questions, 92 %, with standard" in text
    )
    weak = evidence(fates=FateCounts(3, 1, 0, 0))
    assert "same passage" not in explain(weak, decide(weak), decide(weak), weak.fates)


def test_identical_models_are_named_where_base_is_weak():
    weak = evidence(fates=FateCounts(3, 0, 0, 0), identical=True)
    assert decide(weak).outcome == "untestable"
    text = explain(weak, decide(weak))
    assert "Every probability that was recorded equals base's." in text
    assert "3 questions both ways" in text


def test_an_arm_that_answers_more_than_base_is_asked_about():
    above = (-1.0, -2.0, -0.4)
    for more in (evidence(above), evidence(choice=above)):
        assert SWAPPED in explain(more, decide(more))
    assert SWAPPED not in explain(evidence(), decide(evidence()))


def test_a_number_of_items_that_nobody_can_ask_is_not_said():
    found = Decision("inconclusive", "undecided", "holds", ("intact", "illusion"), items_needed=718_461)
    text = explain(evidence(OPEN, n=32), found)
    assert "718" not in text
    assert "out of reach" in text
    near = explain(evidence(OPEN), found._replace(items_needed=1436))
    assert "About 1,500 items like these" in near
