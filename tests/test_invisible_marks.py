"""What nobody sees in an answer, and answers over several lines: every grader calls the same text right."""

from __future__ import annotations

import json
import runpy
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.grade import (
    GRADERS,
    Grading,
    best_f1,
    containment,
    exact_match,
    grade,
    named_candidates,
    normalize,
)
from anomia.interop.lm_eval_tasks import _helpers
from anomia.text import SEEN, visible

GOLDS = [
    "New York", "Škoda Auto", "রবীন্দ্রনাথ ঠাকুর", "టంగ్స్టన్", "กรุงเทพ", "الخرطوم", "نخست‌وزیر", "훈민정음", "東京都", "1889",
    "ශ්‍රී ලංකාව", "क्‍ष", "אריאל שרון",
]  # fmt: skip
UNSEEN = st.characters(categories=("Cf",)).filter(lambda char: not SEEN.match(char) and char != "\u200d")


@pytest.mark.parametrize("grader", GRADERS)
@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ("టంగ్‌స్టన్", "టంగ్స్టన్"),
        ("Donau\u00addampf", "Donaudampf"),
        ("\u200fتهران", "تهران\u200e"),
        ("Helsinki\u200b", "Helsinki"),
        ("Helsinki", "Hel\u2060sinki\ufeff"),
        ("سي\u200cدي", "سيدي"),
        ("\u202aIsland\u202c", "Island"),
    ],
)
def test_the_same_visible_text_is_right(grader: str, gold: str, said: str) -> None:
    for one, other in ((gold, said), (said, gold)):
        assert Grading(grader).is_right(one, [other])


@given(gold=st.sampled_from(GOLDS), places=st.lists(st.tuples(st.integers(0, 20), UNSEEN), max_size=4))
def test_nothing_that_is_not_seen_changes_a_grade(gold: str, places: list[tuple[int, str]]) -> None:
    marked = gold
    for place, char in places:
        marked = marked[:place] + char + marked[place:]
    for said, answer in ((marked, gold), (gold, marked), (f"{marked}\nmore", gold)):
        graded = grade(said, [answer])
        assert (graded.correct, graded.exact_match, graded.f1) == (True, True, 1.0)
        assert all(Grading(name).is_right(said, [answer]) for name in GRADERS)
        assert named_candidates(said, ["Quito Lima", answer]) == (1,)


@given(text=st.text(max_size=30))
def test_visible_is_idempotent_and_leaves_ordinary_text(text: str) -> None:
    assert visible(visible(text)) == visible(text)
    if not any(unicodedata.category(char) == "Cf" for char in text):
        assert visible(text) == text


@pytest.mark.parametrize(
    ("word", "other", "new"),
    [
        ("അവന്‍", "അവന്", "അവൻ"),  # he, to him; he as it is written today
        ("दर्‍या", "दर्या", "दऱ्या"),  # valleys, sea
        ("হঠাত্‍", "হঠাত্", "হঠাৎ"),
    ],
)
def test_a_joiner_that_makes_another_letter_is_that_letter(word: str, other: str, new: str) -> None:
    assert exact_match(word, [new])
    assert exact_match(new, [word])
    assert not exact_match(word, [other])
    assert not exact_match(other, [word])


def test_signs_of_the_category_that_are_seen_stay() -> None:
    assert normalize("\u06dd") == "\u06dd"
    england, scotland = (
        "🏴" + "".join(chr(0xE0000 + ord(char)) for char in code) for code in ("gbeng", "gbsct")
    )
    assert not containment(england, [scotland])


def test_an_answer_that_nobody_sees_can_not_be_graded() -> None:
    assert normalize("\u200b\u200f") == ""
    assert not containment("anything", ["\u200b"])
    assert grade("", ["\u200b"]) == (False, False, 0.0)


@pytest.mark.parametrize("grader", GRADERS)
def test_an_answer_over_two_lines(grader: str) -> None:
    for said in ("one\ntwo", "\n one \n\n\u200b\ntwo\nthree", "one two\nthree", "one\r\ntwo"):
        assert Grading(grader).is_right(said, ["one\ntwo"])
    assert not Grading(grader).is_right("three\nfour", ["one\ntwo"])


def test_lines_of_an_answer_count_only_where_it_has_them() -> None:
    assert not exact_match("one\ntwo", ["one two"])
    assert not exact_match("one\nthree", ["one\ntwo"])
    assert best_f1("one\ntwo", ["one two"]) == pytest.approx(2 / 3)
    assert exact_match("one\n\x0c\ntwo", ["one\ntwo"])


@given(
    lines=st.lists(st.text(max_size=8), min_size=1, max_size=4), end=st.sampled_from(["\n", "\r\n", "\u2028"])
)
def test_every_answer_matches_itself(lines: list[str], end: str) -> None:
    answer = end.join(lines)
    if normalize(answer):
        assert grade(answer, [answer]) == (True, True, 1.0)


def test_the_exported_helpers_grade_alike(tmp_path: Path) -> None:
    file = tmp_path / "utils.py"
    file.write_text(_helpers(), encoding="utf-8")
    assert file.read_bytes().isascii()
    alone = runpy.run_path(str(file))
    for said, answer in (
        ("టంగ్‌స్టన్", "టంగ్స్టన్"), ("അവന്‍", "അവന്"), ("അവന്‍", "അവൻ"), ("one\ntwo\nthree", "one\ntwo"), ("\u06dd", "\u06dd"),
    ):  # fmt: skip
        assert alone["process_results"]({"answers": [answer]}, [said]) == {
            "contains": float(containment(said, [answer])),
            "em": float(exact_match(said, [answer])),
        }


def test_real_gold_answers_with_what_is_not_seen(shared_data: Path) -> None:
    files = [*(shared_data / "tydiqa_goldp").rglob("*.json"), *(shared_data / "xquad").glob("*.json")]
    golds = [
        qa["answers"][0]["text"]
        for file in files
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    marked = [gold for gold in golds if any(unicodedata.category(char) == "Cf" for char in gold)]
    assert len(marked) == 15
    for gold in marked:
        seen = "".join(char for char in gold if unicodedata.category(char) != "Cf")
        for name in GRADERS:
            assert Grading(name).is_right(seen, [gold])
            assert Grading(name).is_right(gold, [seen])
        assert exact_match(seen, [gold])
        assert best_f1(seen, [gold]) == 1.0
