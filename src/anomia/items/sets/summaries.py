"""Summaries: rows of XSum (`document`, `summary`), CNN/DailyMail (`article`, `highlights`) and the like.

Graded by ROUGE-L (Lin 2004) of rouge-score against the reference; there is no right and wrong. A part says whether
numbers and names of the summary stand in the text. Wrong options are the reference with one error that makes it
unfaithful.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from anomia.errors import MissingExtraError
from anomia.grade import Posed, Task, TaskGrade
from anomia.items.data_set import DataSet
from anomia.items.edits import NAMES, NUMBERS, edited, shortened, written_in
from anomia.items.item import Question
from anomia.items.task_rows import SUFFIXES, HubPlace, TaskRow, draw_for, first_wrong, packed, task_reader
from anomia.probes import CHOICE_OWN
from anomia.text import normalize, words

_KINDS = ("rouge1", "rouge2", "rougeL")


class _Words:
    """The tokenizer for other languages than English: rouge-score's own keeps ASCII letters only."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def grade(output: str, question: Posed) -> TaskGrade:
    """ROUGE-L F1 of the first paragraph. Parts: ROUGE-1, ROUGE-2, the share of numbers and names that the text has."""
    first_part = _first_paragraph(output)
    scorer = _scorer(question.target in ("", packed("english")))
    best = max(
        (scorer.score(answer, first_part) for answer in question.answers),
        key=lambda found: found["rougeL"].fmeasure,
    )
    one, two, longest = (float(best[kind].fmeasure) for kind in _KINDS)
    return TaskGrade(longest, None, (one, two, supported(first_part, question.context)))


def _first_paragraph(output: str) -> str:
    # Base models go on with another text.
    return re.split(r"\n\s*\n", output.strip())[0]


def supported(summary: str, text: str) -> float | None:
    """The share of a summary's numbers and names that stand in the text; None if it has none.

    >>> supported("It opened in 1889 in Lyon.", "The tower in Paris opened in 1889.")
    0.5
    """
    claimed = [match.group() for pattern in (NUMBERS, NAMES) for match in pattern.finditer(summary)]
    if not claimed:
        return None
    known = f" {normalize(text)} "
    return sum(bool(re.search(rf"\b{re.escape(normalize(each))}\b", known)) for each in claimed) / len(
        claimed
    )


@cache
def _scorer(english: bool) -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingExtraError("rouge-score", "tasks") from None
    return (
        RougeScorer(list(_KINDS), use_stemmer=True)
        if english
        else RougeScorer(list(_KINDS), tokenizer=_Words())
    )


TASK = Task(grade=grade, parts=("ROUGE-1", "ROUGE-2", "numbers and names in the text"), right_or_wrong=False)


def wrong_summaries(question: Question) -> tuple[str, ...]:
    """Three unfaithful versions of the reference; other names come from the text."""
    draw = draw_for(question, "summaries")
    versions = _unfaithful(question.gold, question, draw)
    return first_wrong((*versions, *shortened(question.gold, draw)), question, TASK)


def own_versions(output: str, question: Question, draw: random.Random) -> tuple[str, Iterator[str]]:
    """The summary that an output begins with, and versions of it with one error each."""
    text = _first_paragraph(output)
    return text, _unfaithful(text, question, draw, written_in(text, question.language))


def _unfaithful(text: str, question: Question, draw: random.Random, language: str = "") -> Iterator[str]:
    names = [match.group() for match in NAMES.finditer(question.context)]
    return edited(text, language or question.language, draw, names=names)


def _read(row: TaskRow) -> Question:
    return Question(
        id=row.id,
        language=row.own_language,
        context=row.text("article", "document", "text", "dialogue").strip(),
        question="Summarize the text in one or two sentences.",
        answers=(row.text("highlights", "summary").strip(),),
        distractors=row.texts("distractors"),
        target=packed(row.own_language),
    )


SET = DataSet(
    name="summaries",
    title="summaries (XSum, CNN/DailyMail)",
    read=task_reader("summaries", _read, HubPlace("abisee/cnn_dailymail", "3.0.0", "test")),
    hub_rows=11_490,
    path="optional",
    endings=SUFFIXES,
    holds="texts and their summaries",
    task=TASK,
    wrong=wrong_summaries,
    own=own_versions,
    settings={
        "prompts": {
            "open": "{context}\n\n{question}\n\nSummary:",
            "cued": "{context}\n\n{question}\n\nCandidates:\n{options}\n\nSummary:",
            "no_question": "{context}\n\n",
            "zero_shot": "{context}\n{question}\nSummary:",
        },
        "probes": ["open", "choice", CHOICE_OWN, "choice_no_question"],
        "max_new_tokens": 96,
        "prompt_tokens": 1536,
    },
    options="brought",
    licence="CC0 1.0",
)
