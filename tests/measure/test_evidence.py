"""Planted truth: what must be said of arms whose damage is known."""

import numpy as np
import pytest

from anomia.errors import DataError
from anomia.measure.contrasts import rank_nearness
from anomia.measure.dissociation import Answers
from anomia.measure.evidence import OVERALL, AnswerSet, Sign, gather, holm_stands
from anomia.measure.fates import FateCounts, fates, met
from anomia.measure.quantities import minus, share
from anomia.measure.ranks import mid_ranks, summarize_ranks
from anomia.measure.verdict import decide
from anomia.measure.verdict_text import explain

N, VOCABULARY = 400, 60


def base_answers(seed=0):
    generator = np.random.default_rng(seed)
    return generator.random(N) < 0.55, generator.random(N) < 0.9


def outcome(answers, **more):
    case = AnswerSet(answers, ["english"] * N, **more)
    return decide(gather(case, draws=1000)["english"])


def test_a_competitor_pushed_above_gold_is_demotion_with_the_planted_rank():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(N, VOCABULARY))
    gold, control, competitors = 0, 1, np.array([2, 3])
    logits[:, gold] = np.where(generator.random(N) < 0.6, 5.0, 1.0)
    _, base_choice = base_answers()
    pushed = generator.random(N) < 0.8
    shifted = logits.copy()
    shifted[np.ix_(pushed, competitors)] = 6.0

    def rank(table, token):
        return 1 + (table > table[:, [token]]).sum(axis=1)

    # The option scores compare gold with its distractors, which the shift does not touch.
    answers = Answers(rank(logits, gold) == 1, rank(shifted, gold) == 1, base_choice, base_choice)
    index = fates(answers.base_open, answers.base_choice, answers.arm_open, answers.arm_choice)
    recognised = met(index, "choice_only")
    ties = np.zeros(N)
    near = Sign(
        rank_nearness(
            mid_ranks(rank(shifted, gold), ties), mid_ranks(rank(shifted, control), ties), recognised
        )
    )
    found = outcome(answers, near={"ranks": near})
    assert found.outcome == "demotion"
    assert found.near == ("ranks",)
    summary = summarize_ranks(rank(shifted, gold)[recognised], ties[recognised], vocabulary=VOCABULARY)
    assert summary.median == 3
    assert outcome(answers).outcome == "illusion"


@pytest.mark.parametrize("guessing", [0.25, 0.0])
def test_a_destroyed_association_is_loss(guessing):
    base_open, base_choice = base_answers()
    guess = np.random.default_rng(1).random(N) < guessing
    found = outcome(Answers(base_open, np.zeros(N, dtype=bool), base_choice, guess))
    assert found.outcome == "loss"


def test_the_base_model_against_itself_is_intact():
    base_open, base_choice = base_answers()
    same = Answers(base_open, base_open, base_choice, base_choice)
    assert outcome(same).outcome == "intact"
    few = Answers(*(column[:40] for column in same))
    evidence = gather(AnswerSet(few, ["a"] * 40, identical=True), draws=200)["a"]
    assert decide(evidence).outcome == "intact"
    # 40 items without the knowledge that the models are one can't rule out a drop.
    assert decide(gather(AnswerSet(few, ["a"] * 40), draws=200)["a"]).outcome == "inconclusive"


def test_right_answers_in_another_format_are_not_loss():
    base_open, base_choice = base_answers()
    # Half of the answers come as an alias that grading does not know; the options are scored as before.
    unknown = np.random.default_rng(2).random(N) < 0.5
    assert outcome(Answers(base_open, base_open & ~unknown, base_choice, base_choice)).outcome == "illusion"


def test_both_fall_and_open_more_is_mixed():
    base_open, base_choice = base_answers()
    generator = np.random.default_rng(3)
    kept_open, kept_choice = generator.random(N) < 0.3, generator.random(N) < 0.8
    answers = Answers(base_open, base_open & kept_open, base_choice, base_choice & kept_choice)
    assert outcome(answers).outcome == "mixed"


def test_choice_that_falls_alone_is_reverse():
    base_open, base_choice = base_answers()
    kept = np.random.default_rng(4).random(N) < 0.6
    assert outcome(Answers(base_open, base_open, base_choice, base_choice & kept)).outcome == "reverse"


def test_empty_outputs_are_broken_whatever_the_accuracy():
    base_open, base_choice = base_answers()
    empty = np.random.default_rng(5).random(N) < 0.8
    answers = Answers(base_open, base_open & ~empty, base_choice, base_choice)
    assert outcome(answers, base_broken=np.zeros(N), arm_broken=empty).outcome == "broken"
    # Small models loop from the start: what base does, too, is no sign of damage.
    assert outcome(answers, base_broken=empty, arm_broken=empty).outcome == "illusion"


@pytest.mark.parametrize("changed_more", [0, 2, 4])
def test_gemma_at_wanda_one_half_is_not_loss(changed_more):
    """Three languages of 40 items: open 35/23/35 % to 23/5/8 %, choice 95/85/90 % to 82/80/85 %."""
    rows, languages = [], []
    for name, *counts in [
        ("arabic", 14, 9, 38, 33, 14, 9, 0, 5),
        ("bengali", 9, 2, 34, 32, 8, 7, 1, 0),
        ("english", 14, 3, 36, 34, 13, 10, 0, 3),
    ]:
        base_open, arm_open, base_choice, arm_choice, both, choice_only, lost, kept = counts
        items = [[1, 1, 1, 1]] * kept + [[1, 0, 1, 1]] * choice_only + [[1, 0, 1, 0]] * lost
        items += [[1, 0, 0, 0]] * (base_open - both)
        rest = [[0, int(i < arm_open - kept), int(i < base_choice - both), 0] for i in range(40 - len(items))]
        wrong, right = [r for r in rest if not r[2]], [r for r in rest if r[2]]
        won = min(len(wrong), changed_more)
        for row in wrong[:won] + right[: arm_choice - kept - choice_only - won]:
            row[3] = 1
        rows += items + rest
        languages += [name] * 40
    answers = Answers(*np.array(rows).T)
    found = gather(AnswerSet(answers, languages), draws=2000)
    overall = found[OVERALL]
    assert overall.fates.both_correct == 35
    assert (overall.fates.choice_only, overall.fates.lost) == (26, 1)
    assert [round(40 * found[name].arm_choice) for name in ("arabic", "bengali", "english")] == [33, 32, 34]
    decision = decide(overall)
    assert decision.open == "falls"
    assert decision.outcome in ("mixed", "illusion", "inconclusive")
    assert "loss" not in decision.possible
    assert "26 are still recognised but no longer answered" in explain(overall, decision).text
    assert decide(found["bengali"]).outcome == "untestable"
    assert all(decide(part).outcome != "loss" for part in found.values())


def test_the_papers_own_setting_is_an_illusion_overall():
    """Nine languages of 200 items, open 46.9 to 37.8 %, choice 90.0 to 86.8 %, some items won back."""
    generator = np.random.default_rng(0)

    def pair(base, arm, won):
        lost = base - arm + won
        place = generator.choice(4, size=1800, p=[base - lost, lost, won, 1 - base - won])
        return np.isin(place, [0, 1]), np.isin(place, [0, 2])

    answers = Answers(*pair(0.469, 0.378, 0.05), *pair(0.9, 0.868, 0.02))
    found = gather(AnswerSet(answers, np.repeat([f"l{number}" for number in range(9)], 200)), draws=2000)
    assert decide(found[OVERALL]).outcome == "illusion"
    assert "loss" not in {decide(part).outcome for part in found.values()}


def test_weak_languages_are_named_and_excluded_of_overall():
    base_open, base_choice = base_answers()
    languages = np.repeat(["english", "telugu"], N // 2)
    base_open = base_open & (languages == "english")
    near = Sign(rank_nearness(np.full(N, 2.0), np.full(N, 90.0), np.ones(N)))
    answers = Answers(base_open, base_open & False, base_choice, base_choice)
    found = gather(AnswerSet(answers, languages, near={"ranks": near}), draws=500)
    assert list(found) == ["english", "telugu", OVERALL]
    assert decide(found["telugu"]).outcome == "untestable"
    assert found[OVERALL].excluded == ("telugu",)
    assert found[OVERALL].n == N // 2
    assert found[OVERALL].near["ranks"].over_control.n == N // 2
    assert decide(found[OVERALL]).outcome == "demotion"


def test_a_run_in_which_every_language_is_weak_is_untestable():
    nothing = np.zeros(N, dtype=bool)
    found = gather(AnswerSet(Answers(nothing, nothing, nothing, nothing), ["a"] * N), draws=100)
    assert decide(found[OVERALL]).outcome == "untestable"
    assert found["a"].fates == FateCounts(0, 0, 0, 0)
    assert found["a"].lost is None


def test_other_items_are_refused():
    with pytest.raises(DataError, match="same items"):
        gather(AnswerSet(Answers([True], [True], [True], [True, False]), ["a"]))


def test_holm_steps_down_and_stops_at_the_first_that_does_not_stand():
    assert holm_stands({"a": 3, "b": 2, "c": 1}, 3) == {"a", "b", "c"}
    assert holm_stands({"a": 2, "b": 2, "c": 2}, 3) == frozenset()
    assert holm_stands({"a": 3, "b": 1, "c": 1}, 3) == {"a"}


def test_a_language_must_hold_against_the_number_of_languages():
    """A gap that is significant alone, and not among nine languages."""
    base_open, base_choice = base_answers()
    # 20 of 220 fell in open, 3 in choice: p is about 0.005 times two sides, well above 0.05 / 9.
    fell = np.zeros(N, dtype=bool)
    fell[np.flatnonzero(base_open)[:16]] = True
    arm_open = base_open & ~fell
    arm_open[np.flatnonzero(~base_open)[:5]] = True
    one = Answers(base_open, arm_open, base_choice, base_choice)
    alone = gather(AnswerSet(one, ["a"] * N), draws=1000)["a"]
    assert alone.gap.low > 0
    assert "gap" in alone.stands
    quiet = Answers(base_open, base_open, base_choice, base_choice)
    nine = Answers(
        *(np.concatenate([first, *[second] * 8]) for first, second in zip(one, quiet, strict=True))
    )
    labels = np.repeat([f"l{n}" for n in range(9)], N)
    among = gather(AnswerSet(nine, labels), draws=1000)["l0"]
    assert among.gap.low > 0
    assert "gap" not in among.stands


def test_overall_claims_the_gap_at_97_percent():
    """Three studies of one language: a gap apart from 0 at 97 %, at 95 % only, and not."""
    base_open, base_choice = base_answers()
    right = np.flatnonzero(base_open)
    claimed = {}
    for lost in range(2, 30):
        arm_open = base_open.copy()
        arm_open[right[:lost]] = False
        arm_open[np.flatnonzero(~base_open)[:2]] = True
        arm_choice = base_choice.copy()
        arm_choice[np.flatnonzero(base_choice)[-2:]] = False
        answers = Answers(base_open, arm_open, base_choice, arm_choice)
        found = gather(AnswerSet(answers, ["a"] * N), draws=2000)[OVERALL]
        claimed[found.gap.low > 0, "gap" in found.stands] = True
    assert set(claimed) == {(False, False), (True, False), (True, True)}


def test_nearness_needs_the_control_base_s_own_failures_and_validated_intervals():
    base_open, base_choice = base_answers()
    answers = Answers(base_open, base_open & False, base_choice, base_choice)
    unsaid = base_open & base_choice

    def found(gold, control, failed):
        near = Sign(
            rank_nearness(gold, control, unsaid),
            minus(share(gold <= 10, unsaid), share(gold <= 10, ~base_open & failed)),
        )
        return decide(gather(AnswerSet(answers, ["a"] * N, near={"rank": near}), draws=1000)["a"])

    close, far = np.full(N, 3.0), np.full(N, 200.0)
    everyone = np.ones(N, dtype=bool)
    assert found(np.where(unsaid, close, far), far, everyone).outcome == "demotion"
    # Everything is near the top: the control as well, or what base never answered as well.
    assert found(np.where(unsaid, close, far), close, everyone).outcome == "illusion"
    assert found(close, far, everyone).outcome == "illusion"
    few = np.zeros(N, dtype=bool)
    few[np.flatnonzero(~base_open)[:5]] = True
    assert found(np.where(unsaid, close, far), far, few).outcome == "illusion"


def test_what_loops_in_base_can_not_hide_what_compression_broke():
    """3 → 20 of 24 outputs loop: of the 21 sound ones 17 do. And base loops in half, the arm in all."""
    right = np.arange(24) < 12
    answers = Answers(right, right, right, right)

    def found(before, after):
        case = AnswerSet(answers, ["bengali"] * 24, base_broken=before, arm_broken=after)
        return gather(case, draws=200)["bengali"]

    few = found(np.arange(24) < 3, np.arange(24) < 20)
    assert few.broken.value == pytest.approx(17 / 21)
    assert decide(few).outcome == "broken"
    assert decide(found(np.arange(24) < 12, np.arange(24) < 24)).outcome == "broken"
    # As many as in base, on other items, are noise.
    assert decide(found(np.arange(24) < 3, np.arange(24) >= 21)).outcome != "broken"
    # Nine sound ones are too few to judge by; what is seen of them is kept.
    few = found(np.arange(24) < 15, np.arange(24) < 24)
    assert (few.broken, few.sound, few.broken_seen.value, few.broken_seen.n) == (None, 9, 1.0, 9)
