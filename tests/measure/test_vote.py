"""A vote of beams or samples: its laws, and what texts answer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.measure.vote import short_answer, vote, whole_answer

# Few answers with several tails each, so that answers agree and tie often; some say nothing.
TEXTS = st.sampled_from(
    [
        *(f"{answer}{tail}" for answer in ("Oslo", "Bergen", "in 1852") for tail in ("", ".", ".\n\nMore", "\nQ")),
        "", " \n", "Answer in a few words:", "Where is it?", "...",
    ]
)  # fmt: skip
LOG_PROBS = st.floats(-5, 0)
BALLOTS = st.lists(st.tuples(TEXTS, LOG_PROBS), min_size=1, max_size=8)


def answer(ballots: list[tuple[str, float]], *, weighed: bool = True) -> str:
    texts, log_probs = zip(*ballots, strict=True)
    found = vote(texts, log_probs if weighed else None)
    assert found is not None
    return short_answer(found.text)


@given(BALLOTS, st.booleans(), st.randoms(use_true_random=False))
def test_the_order_of_the_texts_does_not_matter(ballots, weighed, random):
    shuffled = ballots.copy()
    random.shuffle(shuffled)
    (texts, log_probs), (others, their) = (zip(*each, strict=True) for each in (ballots, shuffled))
    found = vote(texts, log_probs if weighed else None)
    assert found == vote(others, their if weighed else None)
    assert found is not None
    assert found.text in texts
    won = short_answer(found.text)
    assert found.agreeing == sum(short_answer(text) == won != "" for text in texts)


@given(BALLOTS, st.booleans())
def test_an_answer_that_all_give_wins(ballots, weighed):
    told = [(f" Rome\n\n{text}", log_prob) for text, log_prob in ballots]
    assert answer(told, weighed=weighed) == "rome"


@given(BALLOTS, st.booleans(), LOG_PROBS)
def test_more_mass_never_loses(ballots, weighed, log_prob):
    won = answer(ballots, weighed=weighed)
    for text, _ in ballots:
        if short_answer(text) == won:
            assert answer([*ballots, (text, log_prob)], weighed=weighed) == won


@given(BALLOTS, st.floats(0.001, 10))
def test_a_likelier_text_never_costs_its_answer_the_vote(ballots, more):
    won = answer(ballots)
    for place, (text, log_prob) in enumerate(ballots):
        if short_answer(text) == won:
            assert answer([*ballots[:place], (text, log_prob + more), *ballots[place + 1 :]]) == won


@given(BALLOTS, st.floats(-1000, 0))
def test_only_the_ratios_of_probabilities_matter(ballots, shift):
    texts, log_probs = zip(*ballots, strict=True)
    halves = [round(2 * each) / 2 for each in log_probs]
    shifted = [each + round(shift) for each in halves]
    assert vote(texts, halves) == vote(texts, shifted)


@given(BALLOTS, st.integers(1, 20))
def test_texts_that_say_nothing_never_outvote_one_that_does(ballots, silent):
    told = [each for each in ballots if short_answer(each[0])]
    if told:
        assert answer([*told, *[("", 0.0)] * silent], weighed=False) == answer(told, weighed=False) != ""


def test_a_vote_by_hand():
    """Bergen has the best beam, Oslo the larger mass: 0.3 + 0.25 against 0.4."""
    texts = ["Bergen", "Oslo.\n\nQuestion: Next?", "oslo", "Rome"]
    masses = [0.4, 0.3, 0.25, 0.05]
    found = vote(texts, [math.log(mass) for mass in masses])
    assert found is not None
    assert found == ("Oslo.\n\nQuestion: Next?", 2)
    assert vote(texts, [math.log(mass) for mass in (0.6, 0.3, 0.25, 0.05)]) == ("Bergen", 1)
    assert vote(texts) == (found.text, 2) or vote(texts) == ("oslo", 2)


def test_of_answers_with_equal_mass_the_one_with_the_best_text_wins():
    texts = ["Oslo", "Oslo.", "Bergen", "Rome"]
    assert vote(texts, [math.log(mass) for mass in (0.25, 0.25, 0.5, 0.1)]) == ("Bergen", 1)


def test_samples_that_tie_are_drawn_neither_by_length_nor_by_alphabet():
    won = {"short": 0, "first": 0}
    for n in range(400):
        texts = [f"a long answer {n}", f"z{n}"]
        found = vote(texts)
        assert found is not None
        won["short"] += found.text == texts[1]
        won["first"] += found.text == min(texts)
    assert all(140 < count < 260 for count in won.values())


def test_the_commonest_wording_stands_for_an_answer():
    assert vote(["Oslo.", "oslo", "oslo", "Rome", "Rome"]) == ("oslo", 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_texts_without_a_finite_score_do_not_count(bad):
    assert vote(["Rome", "Rome", "Oslo"], [bad, bad, -9.0]) == ("Oslo", 1)
    assert vote(["Rome", "Oslo"], [bad, bad]) is None


def test_no_texts_no_vote():
    assert vote([]) is None
    assert vote([], []) is None
    # All say nothing: one of them is the answer, and will be graded as wrong.
    silent = vote(["", " "])
    assert silent is not None
    assert silent.agreeing == 0


def test_unlikely_texts_do_not_underflow():
    assert vote(["Rome", "Oslo", "Oslo"], [-5000.0, -5000.5, -5000.6]) == ("Oslo", 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 1914\n\nQuestion: In which year did it open?\n\nAnswer: 1904", "1914"),
        ("\n\n1914\n\n1915\n\n1916\n\n19", "1914"),
        ("\n\n* 1914\n* 1915\n* 1916", "1914"),
        (" in 1852 г. The Hermitage opened to all", "in 1852 г the hermitage opened to all"),
        (" Dr. Livingstone. He went", "dr livingstone"),
        (" 15. huhtikuuta. Se oli", "15 huhtikuuta"),
        (" 1,500 metres! It is", "1500 metres"),
        (" シマウマ。それは", "シマウマ"),
        (" टाइटन है। यह", "टाइटन है"),
        ("Answer in a few words: Berlin\n\nAnswer in a few words: Berlin\n\nAnswer in a", "berlin"),
        ("\n\nAnswer in a few words:\n\nAnswer in a few words:\n\nAnswer in a few", ""),
        ("\n\nAnswer in a few words:\n\nAnswer in a few words\n\nQuestion in", ""),
        (" Answer is Rome", "answer is rome"),
        ("Who was it? It was Fleming. He", "it was fleming"),
        ("The towns:\nOslo lies in Norway, as everyone who reads this may know", "oslo lies in norway as everyone who reads this may know"),
        (" 14 June 1952 saw the ship (English:", "14 june 1952 saw the ship english"),
        ("\xa0<start_of_image>\ufffd\ufffd", ""),
        ("<b>Berlin</b>\n\nThe", "berlin"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_text_answers(text, expected):
    assert short_answer(text) == expected


@given(st.text(max_size=80))
def test_any_text_has_an_answer(text):
    assert isinstance(short_answer(text), str)
    assert vote([text]) == (text, int(short_answer(text) != ""))


def test_in_tasks_only_whole_texts_agree():
    code = ["x = f(1)\nreturn 1", "x = f(1)\nreturn 2", "x = f(1)\nreturn 2"]
    assert vote(code, answer=whole_answer) == (code[1], 2)
    found = vote(code)
    assert found is not None
    assert found.agreeing == 3
