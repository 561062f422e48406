"""The shipped questions keep what they promise."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources

import pytest

from anomia.grade import normalize
from anomia.items.item import Question
from anomia.items.readers import read_questions
from anomia.items.sets import SETS

QUESTIONS = read_questions("demo")


def calibration(language: str) -> list[str]:
    file = resources.files("anomia.items") / "demo" / "calibration" / f"{language}.jsonl"
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("language", SETS["demo"].languages or ())
def test_enough_questions_with_short_answers_out_of_their_passages(language: str) -> None:
    questions = QUESTIONS[language]
    # 32 items and the one-shot exemplar.
    assert len(questions) >= 33
    for question in questions:
        assert question.gold in question.context, question.id
        assert 60 <= len(question.context.split()) <= 150, question.id
        assert len(question.gold.split()) <= 5, question.id
        assert normalize(question.gold) not in normalize(question.question), question.id


@pytest.mark.parametrize("language", SETS["demo"].languages or ())
def test_wrong_options_stand_in_the_passage_too(language: str) -> None:
    for question in QUESTIONS[language]:
        assert len(set(question.passage_distractors)) == 3, question.id
        for wrong in question.passage_distractors:
            assert wrong in question.context, (question.id, wrong)
            for answer in question.answers:
                assert normalize(answer) not in normalize(wrong), (question.id, wrong)
                assert normalize(wrong) not in normalize(answer), (question.id, wrong)


def test_no_two_items_share_a_passage_and_no_two_answers_of_a_language_are_equal() -> None:
    everything: list[Question] = [question for found in QUESTIONS.values() for question in found]
    assert max(Counter(question.context for question in everything).values()) == 1
    assert max(Counter(question.id for question in everything).values()) == 1
    for questions in QUESTIONS.values():
        assert len({normalize(question.gold) for question in questions}) == len(questions)


@pytest.mark.parametrize("language", SETS["demo"].languages or ())
def test_calibration_passages_are_disjoint_from_the_items(language: str) -> None:
    texts = calibration(language)
    assert len(texts) >= (12 if language == "english" else 4)
    sentences = {s.strip() for q in QUESTIONS[language] for s in q.context.split(".") if len(s.strip()) > 20}
    for text in texts:
        assert len(text.split()) >= 90
        assert not any(sentence in text for sentence in sentences)
