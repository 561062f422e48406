"""Questions that a passage answers or doesn't, in SQuAD 2.0's form (`answers` are empty): does a model abstain or
invent?

An unanswerable question is right if the output abstains, an answerable one if it contains an answer and doesn't
abstain; the two shares are the parts of the score, because a model that always abstains has half of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from anomia.errors import DataError
from anomia.grade import Posed, Task, TaskGrade, contains
from anomia.items.data_set import DataSet
from anomia.items.distractors import answer_shape, passage_distractors
from anomia.items.entry import is_unanswerable, read_texts
from anomia.items.item import Question
from anomia.items.task_rows import SUFFIXES, HubPlace, TaskRow, draw_for, first_wrong, task_reader
from anomia.text import normalize, seen_lines

UNANSWERABLE = "unanswerable"
# In the first line of an output; normalized, so without apostrophes.
_ABSTAINS = re.compile(
    r"\b(?:unanswerable|not answerable|no answer|(?:cannot|cant|can not|could not|couldnt|not possible to) (?:be )?"
    r"(?:answer|determin|say|tell|know|infer)\w*|(?:not|never|isnt|arent|wasnt) (?:\w+ "
    r")?(?:mention|stat|sa(?:id|y)|specif|"
    r"giv|provid|describ|discuss|includ|list|reveal|indicat)\w*|(?:does|do|did)(?: not|nt) (?:\w+ "
    r")?(?:mention|state|say|"
    r"specify|give|provide|tell|describe|include|contain|indicate|answer|know)|(?:no|not enough|insufficient) "
    r"(?:information|details|mention|indication)|dont know|do not know|unclear|(?:not able|unable) to "
    r"(?:answer|say|tell|determine))\b"
)
_WHOLE = ("unknown", "none", "na", "nobody knows", "not known")
# Names within a sentence, and numbers with what they count.
_NAMED = re.compile(
    r"(?<=[a-z,;] )(?:[A-Z][\w'’-]+)(?: (?:of |the |de |von )?[A-Z][\w'’-]+)*|\b\d[\d,.]*\d(?: [a-z]{4,})?|\b\d\b(?: "
    r"[a-z]{4,})?"
)
# What an answer looks like, by the words that questions begin with.
_LIKE = (
    (re.compile(r"\b(?:when|(?:what|which) year)\b", re.IGNORECASE), "1950"),
    (re.compile(r"\bhow (?:many|much|long|far|old|tall|high|often|deep|heavy)\b", re.IGNORECASE), "12"),
    (re.compile(r"\b(?:who|whose|whom|where|which)\b", re.IGNORECASE), "Anna"),
)


def abstains(output: str) -> bool:
    """Whether an output says, in English and in its first line, that the question can't be answered.

    >>> abstains("The passage doesn't say."), abstains("Unanswerable"), abstains("In 1912")
    (True, True, False)
    """
    first_line = normalize(next(iter(seen_lines(output)), ""))
    return first_line in _WHOLE or bool(_ABSTAINS.search(first_line))


def grade(output: str, question: Posed) -> TaskGrade:
    """Right if the output abstains where it should, or else gives an answer."""
    silent = abstains(output)
    if question.answers[0] == UNANSWERABLE:
        return TaskGrade(float(silent), silent, (float(silent), None))
    right = not silent and any(contains(output, answer) for answer in question.answers)
    return TaskGrade(float(right), right, (None, float(right)))


TASK = Task(grade=grade, parts=("unanswerable: abstains", "answerable: answers"))


def wrong_answers(question: Question) -> tuple[str, ...]:
    """Plausible answers and spans of the passage; for an answerable question, also "unanswerable"."""
    return first_wrong(_candidates(question), question, TASK)


def _candidates(question: Question) -> Iterator[str]:
    gold = question.gold
    if gold == UNANSWERABLE:
        yield from question.passage_distractors
        asked = next((like for asked, like in _LIKE if asked.search(question.question)), "something")
        gold = next(iter(question.passage_distractors), asked)
    else:
        yield UNANSWERABLE
    draw = draw_for(question, "abstention")
    named = [match.group() for match in _NAMED.finditer(question.context)]
    draw.shuffle(named)
    shape = answer_shape(gold)
    yield from sorted(named, key=lambda text: answer_shape(text) != shape)
    alike = replace(
        question, id=str(draw.random()), answers=(gold, *question.answers), passage_distractors=()
    )
    yield from passage_distractors(alike, (), seed=0)


def _rows(row: TaskRow) -> Iterator[TaskRow]:
    """The questions of a row: one, or all of a SQuAD file."""
    if "data" not in row.fields:
        yield row
        return
    number = 0
    for article in _list(row.fields, "data", row.place):
        for paragraph in _list(article, "paragraphs", row.place):
            for entry in _list(paragraph, "qas", row.place):
                number += 1
                if not isinstance(entry, dict):
                    raise DataError(f"data: {row.place}: question {number} is not an object")
                fields = {key.lower(): value for key, value in entry.items()}
                fields["context"] = paragraph.get("context")
                yield row._replace(place=f"{row.place}, question {number}", number=number, fields=fields)


def _list(value: Any, key: str, place: str) -> list[Any]:
    found = value.get(key) if hasattr(value, "get") else None
    if not isinstance(found, list):
        raise DataError(f"data: {place} has no list {key!r}; give SQuAD 2.0's files or the hub's rows")
    return found


def _read(row: TaskRow) -> Question:
    answers = read_texts(row.fields.get("answers"), "answers", row.place)
    unanswerable = is_unanswerable(row.fields) or not answers
    return Question(
        id=row.id,
        language=row.own_language,
        context=row.text("context", "passage"),
        question=row.text("question"),
        answers=(UNANSWERABLE,) if unanswerable else answers,
        distractors=read_texts(row.fields.get("distractors"), "distractors", row.place),
        passage_distractors=read_texts(row.fields.get("plausible_answers"), "plausible_answers", row.place)
        if unanswerable
        else (),
    )


_ASK = (
    "Answer the question from the context in a few words. If the context does not say, answer: unanswerable\n\n"
    "Context: {context}"
)
SET = DataSet(
    name="abstention",
    title="unanswerable questions (SQuAD 2.0)",
    read=task_reader(
        "abstention", _read, HubPlace("rajpurkar/squad_v2", "squad_v2", "validation"), rows=_rows
    ),
    hub_rows=11_873,
    path="optional",
    endings=SUFFIXES,
    holds="questions of which some can't be answered",
    task=TASK,
    wrong=wrong_answers,
    settings={
        "prompts": {
            "open": f"{_ASK}\n\nQuestion: {{question}}\n\nAnswer:",
            "cued": f"{_ASK}\n\nQuestion: {{question}}\n\nOptions:\n{{options}}\n\nAnswer:",
            "no_question": f"{_ASK}\n\nAnswer:",
            "zero_shot": "Context: {context}\nQuestion: {question}\nAnswer:",
        },
        "probes": ["open", "cued", "choice", "choice_no_question", "rank"],
    },
    options="brought",
    licence="CC0 1.0",
)
