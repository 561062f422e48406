from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.measure.fates import FateCounts
from anomia.measure.outcomes import Outcome
from anomia.measure.rates import Estimate
from anomia.measure.scope import Scope
from anomia.measure.verdict import CLAIMS, Decision, Evidence, Nearness, Thresholds, decide, state
from anomia.measure.verdict_text import SWAPPED, ByOptions, PickCheck, explain, headline

HOLDS, FALLS, OPEN = (0.02, -0.03, 0.08), (0.4, 0.3, 0.5), (0.08, -0.05, 0.2)


def estimate(bounds, n=200):
    if bounds is None:
        return None
    return Estimate(*bounds, n, n)


def told(*given, **more):
    """The verdict's text; a headline is one sentence, and the reason is said once."""
    words = explain(*given, **more)
    assert words.headline.endswith(".")
    assert ". " not in words.headline
    assert words.text.startswith(words.headline)
    return words.text


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
        # One change is significant and the other equivalent to zero: that is no difference yet.
        (FALLS, HOLDS, UNCLEAR, "inconclusive"),
        (FALLS, HOLDS, ALIKE, "inconclusive"),
        (HOLDS, FALLS, UNCLEAR, "inconclusive"),
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
    more = {"near": {"ranks": Nearness(estimate((0.3, 0.2, 0.4)))}} if near else {}
    found = decide(evidence(open_, choice, gap, lost=lost, **more))
    assert found.outcome in get_args(Outcome)
    assert (found.outcome == "inconclusive") == bool(found.possible)
    # Moving the points between their bounds changes nothing but the number of items needed.
    moved = [(0.5 * (low + high), low, high) for _, low, high in (open_, choice, gap, lost)]
    assert decide(evidence(*moved[:3], lost=moved[3], **more))[:5] == found[:5]
    if found.outcome in ("intact", "illusion", "demotion"):
        assert choice[2] <= 0.1
    if found.outcome in ("illusion", "demotion", "mixed"):
        assert gap[1] > 0
    if found.outcome == "reverse":
        assert gap[2] < 0
    if found.outcome in ("mixed", "loss"):
        assert open_[1] > 0
        assert choice[1] > 0


@settings(deadline=None)
@given(bounds, bounds, bounds, bounds)
def test_what_is_possible_is_what_narrower_intervals_can_give(open_, choice, gap, lost):
    found = decide(evidence(open_, choice, gap, lost=lost))
    if found.outcome != "inconclusive":
        return

    def ends(interval):
        # What intervals of no width may lie at: the ends, and beside the marks that decide.
        _, low, high = interval
        marks = [low, high, -1e-6, 1e-6, 0.1, 0.1 + 1e-6]
        return [(mark, mark, mark) for mark in marks if low <= mark <= high]

    outcomes = {
        decide(evidence(one, other, third, lost=fourth)).outcome
        for one in ends(open_)
        for other in ends(choice)
        for third in ends(gap)
        for fourth in ends(lost)
    }
    assert outcomes - {"inconclusive"} <= set(found.possible)


def test_claims_that_do_not_stand_after_correction_are_not_made():
    assert decide(evidence(FALLS, HOLDS, MORE, stands=CLAIMS - {"gap"})).outcome == "inconclusive"
    assert decide(evidence(FALLS, HOLDS, MORE, stands=CLAIMS - {"open"})).outcome == "inconclusive"
    assert decide(evidence(HOLDS, HOLDS, MORE, stands=frozenset())).outcome == "intact"


def test_what_differs_at_95_percent_and_is_not_claimed_is_said():
    shown = evidence(FALLS, HOLDS, MORE, stands=CLAIMS - {"gap"})
    assert "Their difference is nonzero at 95 %, but not at the higher level" in told(shown, decide(shown))
    both = evidence(FALLS, HOLDS, MORE, stands=CLAIMS - {"gap", "open"})
    assert "The drop of open and their difference are nonzero at 95 %" in told(both, decide(both))
    none = evidence(FALLS, HOLDS, UNCLEAR, stands=CLAIMS - {"gap"})
    assert "at 95 %" not in told(none, decide(none))


def test_lost_that_dominates_is_loss_even_where_open_fell_more():
    # 45 % of the items no longer said are seen lost: with four options that is 60 % lost.
    lost = evidence(FALLS, FALLS, MORE, lost=(0.5, 0.45, 0.55))
    assert decide(lost).outcome == "loss"
    assert decide(evidence(FALLS, FALLS, MORE, lost=(0.4, 0.36, 0.45))).outcome == "mixed"
    assert decide(evidence(FALLS, FALLS, MORE, lost=(0.4, 0.36, 0.45), floor=0.5)).outcome == "loss"
    assert decide(evidence(FALLS, HOLDS, MORE, lost=(0.5, 0.45, 0.55))).outcome == "illusion"


def test_demotion_needs_an_answer_that_is_near_and_recognised():
    near = {"ranks": Nearness(estimate((0.4, 0.3, 0.5)))}
    refuted = {"ranks": Nearness(estimate((0.4, 0.3, 0.5)), estimate((0.1, -0.1, 0.3)), stands=False)}
    assert decide(evidence(FALLS, HOLDS, MORE, near=refuted)).outcome == "illusion"
    found = decide(evidence(FALLS, HOLDS, MORE, near=near | {"oracle": refuted["ranks"]}))
    assert (found.outcome, found.near) == ("demotion", ("ranks",))
    assert decide(evidence(near=near)).outcome == "intact"
    assert decide(evidence(FALLS, HOLDS, MORE, near=near, recognised=False)).outcome == "illusion"


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


def test_the_items_that_would_decide():
    found = decide(evidence(FALLS, (0.02, -0.13, 0.17), MORE))
    assert found.possible == ("illusion", "mixed")
    # 0.15 must shrink to 0.08, with 80 % power by another factor of 1.43: 200 · (1.43 · 0.15 / 0.08)².
    assert found.items_needed == pytest.approx(1436, rel=0.01)
    assert decide(evidence(FALLS, FALLS, UNCLEAR)).items_needed > 200


def test_words_for_a_release_manager():
    shown = evidence(
        FALLS,
        HOLDS,
        MORE,
        base_open=0.5,
        arm_open=0.295,
        base_choice=0.9,
        arm_choice=0.864,
        fates=FateCounts(8, 26, 0, 1),
        raw_gap=estimate((0.17, -0.01, 0.3)),
        net=estimate((0.6, 0.4, 0.8)),
    )
    text = told(shown, Decision("illusion", "falls", "holds"))
    assert "Multiple choice kept 96 % of its accuracy, open answers lost 41 %." in text
    assert (
        "Of 35 questions that base got right in both formats, 26 are still recognised but no longer answered"
        in text
    )
    assert "1 is lost in both, and 8 are still answered" in text
    assert "open 40 % (30 % to 50 %)" in text
    assert "in raw points 17 (−1 to 30): open lost a larger share, but not clearly more questions" in text
    assert "60 % (40 % to 80 %) moved from answered to only picked." in text
    noise = told(evidence(net=estimate((0.05, -0.02, 0.12))), Decision("intact", "holds", "holds"))
    assert "moved from answered to only picked, which is not clearly above 0" in noise


PICKED = Scope(("english",), (), "choice", "picked", "No kind of options shows recognition here.")
PASSAGE = Scope(("english",), (), "choice_passage", "recognised", "Options from the same passage decided.")


def test_picked_is_not_recognised():
    found = Decision("illusion", "falls", "holds")
    text = told(evidence(FALLS, HOLDS, MORE), found, PICKED)
    assert text.startswith("The model still picks answers that it no longer gives")
    assert "still picked but no longer answered" in text
    assert PICKED.why in text
    loss = told(evidence(FALLS, FALLS, ALIKE), Decision("loss", "falls", "falls"), PICKED)
    assert "no longer picks most of the answers" in loss


def test_which_options_decided_and_what_the_others_say():
    found = Decision("loss", "falls", "falls", alike=True)
    readings = {
        "choice_passage": ByOptions(found, FateCounts(6, 4, 0, 0)),
        "choice": ByOptions(Decision("illusion", "falls", "holds"), FateCounts(1, 12, 0, 0)),
    }
    checks = {
        "no_question": PickCheck(12, 12),
        "passage": PickCheck(5, 12),
        "pmi": PickCheck(7, 12),
        "string": PickCheck(12, 12),
    }
    text = told(evidence(FALLS, FALLS, ALIKE), found, PASSAGE, readings=readings, checks=checks)
    assert text.startswith("Both formats lost about the same share of their answers.")
    assert "Choice among options from the same passage" in text
    assert PASSAGE.why in text
    assert (
        "the model also picks 12 of 12 without the question, 5 of 12 among options from the same passage and 7 of 12"
        in text
    )
    assert (
        "With standard options the outcome is illusion (12 of 13 questions picked but no longer answered, 92 %)."
        in text
    )
    assert "With options from the same passage the outcome" not in text


def test_words_for_the_rest():
    undecided = decide(evidence(FALLS, OPEN, MORE))
    text = told(evidence(FALLS, OPEN, MORE), undecided)
    assert "Open fell and choice may have held or fallen, so the outcome may be illusion or mixed." in text
    assert "items like these would give 80 % power." in text
    weak = evidence(base_open=0.05, fates=FateCounts(3, 1, 0, 0), excluded=("bengali", "telugu"))
    text = told(weak, decide(weak))
    assert (
        "Base gets 5 % right in open and 90 % in choice; of 200 questions, it gets 4 right in both formats."
        in text
    )
    assert "bengali and telugu" in text
    assert text.startswith("Base gets too few of these questions right in both formats")
    beneath = evidence(base_open=0.02, gap=None)
    assert told(beneath, decide(beneath)).startswith("Base itself is too weak")
    broken = evidence(broken=estimate((0.8, 0.7, 0.9)))
    assert "sound in base, 80 % (70 % to 90 %) are empty" in told(broken, decide(broken))
    few = evidence(sound=9, broken_seen=estimate((1.0, 0.7, 1.0), n=9))
    assert decide(few).outcome == "intact"
    assert (
        "Whether the arm is broken is not judged: 9 outputs are sound in base, and at least 10 are needed, so ask more "
        "questions. Of these, 100 % (70 % to 100 %) are empty, loop, or have" in told(few, decide(few))
    )
    assert "not judged" not in told(
        evidence(sound=9, broken_seen=estimate((0.0, 0.0, 0.3), n=9)), decide(few)
    )
    same = evidence(identical=True)
    assert "equals base's" in told(same, decide(same))
    near = evidence(FALLS, HOLDS, MORE, near={"ranks": Nearness(estimate((0.4, 0.3, 0.5)))})
    assert "near the top by ranks" in told(near, decide(near))
    improved = told(evidence(arm_open=0.6, base_open=0.5), Decision("intact", "holds", "holds"))
    assert "open answers gained 20 %" in improved
    assert len({headline(outcome) for outcome in get_args(Outcome)}) == len(get_args(Outcome))


def test_identical_models_are_named_where_base_is_weak():
    weak = evidence(fates=FateCounts(3, 0, 0, 0), identical=True, arm_open=0.5, arm_choice=0.9)
    assert decide(weak).outcome == "untestable"
    text = told(weak, decide(weak))
    assert "Every recorded probability equals base's." in text
    assert "it gets 3 right in both formats" in text


def test_an_arm_that_answers_more_than_base_is_asked_about():
    above = (-1.0, -2.0, -0.4)
    for more in (evidence(above), evidence(choice=above)):
        assert SWAPPED in told(more, decide(more))
    assert SWAPPED not in told(evidence(), decide(evidence()))


@pytest.mark.parametrize(
    ("drop", "change"),
    [
        ((0.22, -0.36, 0.80), "lost 22 % (−36 % to 80 %) of base's accuracy above guessing. This is not a clear change."),
        ((-1.0, -3.37, 1.58), "gained 100 % (−158 % to 337 %) of base's accuracy above guessing. This is not a clear change."),
        ((0.4, 0.3, 0.5), "lost 40 % (30 % to 50 %) of base's accuracy above guessing."),
        ((-0.4, -0.5, 0.0), "gained 40 % (0 % to 50 %) of base's accuracy above guessing. This is not a clear change."),
        ((-0.4, -0.5, -0.3), "gained 40 % (30 % to 50 %) of base's accuracy above guessing."),
    ],
)  # fmt: skip
def test_a_negative_loss_in_the_only_format_that_could_be_tested_is_a_gain(drop, change):
    for name, sides in (("open", (drop, None)), ("multiple choice", (None, drop))):
        found = evidence(*sides, gap=None)
        assert explain(found, decide(found)).one_format == f"Only {name} could be tested: it {change}"


def test_a_number_of_items_that_nobody_can_ask_is_not_said():
    found = Decision("inconclusive", "undecided", "holds", ("intact", "illusion"), items_needed=718_461)
    text = told(evidence(OPEN, n=32), found)
    assert "718" not in text
    assert "out of reach" in text
    near = told(evidence(OPEN), found._replace(items_needed=1436))
    assert "About 1,500 items like these" in near


@pytest.mark.parametrize(
    "grades",
    [{"arm_open": 0.0}, {"arm_choice": 0.8}, {"fates": FateCounts(48, 1, 1, 0)}],
    ids=["open", "choice", "which"],
)
def test_the_same_answers_graded_otherwise_are_the_gradings_doing(grades):
    same = {"identical": True, "arm_open": 0.5, "arm_choice": 0.9, "fates": FateCounts(50, 0, 0, 0)}
    alike, unlike = evidence(**same), evidence(**(same | grades))
    assert decide(unlike).outcome == "intact"
    text = told(unlike, decide(unlike))
    assert "the grading differs, not the model" in text
    assert headline("intact") not in text
    assert told(alike, decide(alike)) == f"{headline('intact')} Every recorded probability equals base's."
