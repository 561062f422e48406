"""Grading: no script loses its vowels, containment is what the paper means, echoes are not answers."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import StudyError
from anomia.grade import (
    Grading,
    contains,
    f1,
    grade,
    is_degenerate,
    is_unspaced,
    named_candidates,
    normalize,
    strip_thinking,
    words,
)
from anomia.study import read_study

SAMPLES = {
    "bengali": "রবীন্দ্রনাথ ঠাকুর",
    "telugu": "హైదరాబాద్",
    "thai": "กรุงเทพมหานคร",
    "arabic": "الخُرطوم",
    "korean": "훈민정음",
    "hindi": "नई दिल्ली",
}


@pytest.mark.parametrize("language", SAMPLES)
def test_no_mark_is_deleted(language: str) -> None:
    text = unicodedata.normalize("NFKC", SAMPLES[language])
    assert normalize(text) == text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  The “Black” Sea…\n", "the black sea"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("１９１３年", "1913年"),
        ("Jean-Paul", "jeanpaul"),
        ("১৯১৩।", "১৯১৩"),
        ("«Ангара»", "ангара"),
        ("¿Dónde?", "dónde"),
        ("?!", ""),
    ],
)
def test_normalize(text: str, wanted: str) -> None:
    assert normalize(text) == wanted


@given(st.text(max_size=60))
def test_normalize_is_idempotent_and_leaves_no_punctuation(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert not any(unicodedata.category(char).startswith("P") for char in once)
    assert once == " ".join(once.split())


@given(st.text(max_size=20), st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_an_answer_between_words_is_found(before: str, answer: str, after: str) -> None:
    if normalize(answer):
        assert contains(f"{before} {answer} {after}", answer)


def test_containment_reads_past_the_first_line_and_takes_any_answer() -> None:
    graded = grade("\n\nI think it was\nBelgrade, in Serbia.", ["Beograd", "Belgrade"])
    assert graded.correct
    assert not graded.exact_match


def test_exact_match_and_f1_look_at_the_first_line_that_is_not_empty() -> None:
    graded = grade("\n \nBelgrade.\nVienna", ["Vienna", "belgrade"])
    assert graded == (True, True, 1.0)
    assert grade("the city of Belgrade", ["Belgrade"]).f1 == pytest.approx(2 * 0.25 / 1.25)


def test_an_answer_of_punctuation_is_never_right() -> None:
    assert grade("anything", ["?"]) == (False, False, 0.0)


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert words("กรุงเทพ") == list("กรุงเทพ")
    assert words("서울 시") == ["서울", "시"]
    assert f1("东京都", "东京") == pytest.approx(0.8)
    assert is_unspaced("กรุงเทพ")
    assert not is_unspaced("서울")


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("It is Rome.", (0,)),
        ("Rome, Paris or Oslo", (0, 1, 3)),
        ("New York City", (2,)),
        ("", ()),
        ("romeo", (0,)),
    ],
)
def test_named_candidates(output: str, named: tuple[int, ...]) -> None:
    assert named_candidates(output, ["Rome", "Paris", "New York City", "Oslo"]) == named


def test_a_longer_candidate_uses_up_the_shorter_one() -> None:
    assert named_candidates("New York City", ["New York", "New York City"]) == (1,)
    assert named_candidates("New York City and New York", ["New York", "New York City"]) == (0, 1)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<think>Paris?</think>Rome", ("Rome", False)),
        ("a<think>x\ny</think>b<think>z</think>c", ("abc", False)),
        ("Rome <think>or Paris", ("", True)),
        ("Rome", ("Rome", False)),
    ],
)
def test_thinking_is_stripped(text: str, wanted: tuple[str, bool]) -> None:
    assert strip_thinking(text) == wanted


def test_degenerate_outputs() -> None:
    assert is_degenerate([], "")
    assert is_degenerate([5, 6], " .\n")
    assert is_degenerate([7] * 32, "the the the")
    assert is_degenerate([7, 8] * 16, "a b a b")
    assert not is_degenerate([7, 8, 7, 8], "no, no")
    assert not is_degenerate([3, 4, 5], "1912")


@pytest.mark.parametrize(
    ("grader", "says"),
    [
        (lambda output, answers: {}["boom"], "fails on the output 'Rome': KeyError: 'boom'"),
        (lambda output: True, "TypeError"),
        (lambda output, answers: sys.exit(3), "SystemExit: 3"),
        (lambda output, answers: "yes", "gives 'yes' for the output 'Rome'"),
        (lambda output, answers: None, "gives None"),
        (lambda output, answers: float("nan"), "gives nan"),
        (lambda output, answers: 7, "gives 7"),
    ],
)
def test_a_grader_of_somebody_else_that_fails(
    grader: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomia.grade.grader_named", lambda name: grader)
    monkeypatch.setattr("anomia.study.grader_named", lambda name: grader)
    with pytest.raises(StudyError, match=re.escape(says)):
        Grading("mine").is_right("Rome", ["Rome"])
    # Hours of asking would stand before the first output that it grades.
    with pytest.raises(StudyError, match="the grader 'mine'"):
        read_study(None, {"base": "m", "arms": ("wanda:0.5",), "grader": "mine"})
