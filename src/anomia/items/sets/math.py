"""Word problems with a number as the answer: GSM8K and files in its form (`question`, `answer` that ends in `#### 18`).

TaskGrade by the last number of the output, or the one after `####` or "the answer is". Wrong options are other models'
wrong answers if the file has them (GSM-MC, Zhang et al. 2024, arXiv:2405.11966), or else the solution's intermediate
results, and numbers near the answer or a multiple of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from anomia.errors import DataError
from anomia.grade import Posed, Task, TaskGrade
from anomia.items.data_set import DataSet
from anomia.items.item import Question
from anomia.items.task_rows import SUFFIXES, HubPlace, TaskRow, draw_for, first_wrong, packed, task_reader

# A number as people write it: 1,234.5 or 1234.5 or .5, with a sign.
_NUMBER = re.compile(r"(?<![\w.])[-−+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])[-−+]?\.\d+")
_STATED = re.compile(r"####|\\boxed\{|answer(?:\s+is|\s*[:=])", re.IGNORECASE)
_LEAST_WRONG = 3


def numbers(text: str) -> list[Decimal]:
    """The numbers in a text, in order; digits of every script, thousands separated by commas.

    >>> numbers("It costs $1,250.50, not 7.")
    [Decimal('1250.50'), Decimal('7')]
    """
    plain = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    return [_value(match.group()) for match in _NUMBER.finditer(plain.replace("$", " "))]


def final_number(text: str) -> Decimal | None:
    """The number that an output gives as its answer: the first one stated as such, else the last.

    Not the last one stated, because base models go on with another problem.

    >>> final_number("3 + 4 = 7. The answer is 7 apples, of the 10."), final_number("4, so 8")
    (Decimal('7'), Decimal('8'))
    """
    for match in _STATED.finditer(text):
        if stated := numbers(text[match.end() :].partition("\n")[0]):
            return stated[0]
    found = numbers(text)
    return found[-1] if found else None


def grade(output: str, question: Posed) -> TaskGrade:
    """Right if the final number equals the answer's."""
    given = final_number(output)
    right = given is not None and any(given == final_number(answer) for answer in question.answers)
    return TaskGrade(float(right), right)


TASK = Task(grade=grade, comparable=True)


def wrong_answers(question: Question) -> tuple[str, ...]:
    """Three numbers that aren't the answer, in the answer's form."""
    return first_wrong(_candidates(question), question, TASK)


def _candidates(question: Question) -> Iterator[str]:
    gold = final_number(question.gold)
    assert gold is not None  # the reader refuses answers without a number
    draw = draw_for(question, "math")
    # What a reader gets who stops early, slips by a little, or takes a wrong last step.
    steps = list(
        dict.fromkeys(value for part in question.target.split("=")[1:] for value in numbers(part)[:1])
    )
    near = [gold + change for change in (1, -1, 2, -2, 10, -10)]
    far = [gold * 2, gold / 2, gold * 10, gold * 3, gold / 10]
    for values in (steps, near, far):
        draw.shuffle(values)
    for value in (*steps[:2], *near[:1], *far, *near, *steps[2:], *numbers(question.question)):
        whole = gold == gold.to_integral_value()
        if (value < 0 <= gold) or (whole and value != value.to_integral_value()):
            continue
        yield _written(value, question.gold)


def _value(text: str) -> Decimal:
    try:
        return Decimal(text.replace(",", "").replace("−", "-"))
    except InvalidOperation:  # more digits than a number can have
        return Decimal("NaN")


def _written(value: Decimal, like: str) -> str:
    """A number with thousands separated as in another."""
    plain = f"{value.normalize():f}"
    whole, point, fraction = plain.partition(".")
    return f"{int(whole):,}{point}{fraction}" if "," in like else plain


def _read(row: TaskRow) -> Question:
    solution = row.text("answer", "answer_number", "final_answer")
    gold = final_number(solution)
    if gold is None or not gold.is_finite():
        raise DataError(f"data: {row.place}: its answer has no number; end it with '#### 18'")
    written = solution.rpartition("####")[2].strip() if "####" in solution else f"{gold.normalize():f}"
    others = {final_number(text): text for text in row.texts("distractors", "model_answers", "predictions")}
    wrong = [
        f"{value.normalize():f}"
        for value in others
        if value is not None and value != gold and value.is_finite()
    ]
    return Question(
        id=row.id,
        language=row.own_language,
        context="",
        question=row.text("question", "problem"),
        answers=(written,),
        distractors=tuple(wrong[:_LEAST_WRONG]) if len(wrong) >= _LEAST_WRONG else (),
        target=packed(solution),
    )


SET = DataSet(
    name="math",
    title="word problems (GSM8K)",
    read=task_reader("math", _read, HubPlace("openai/gsm8k", "main", "test")),
    hub_rows=1_319,
    path="optional",
    endings=SUFFIXES,
    holds="word problems",
    task=TASK,
    wrong=wrong_answers,
    settings={
        "prompts": {
            "open": "Question: {question}\nAnswer:",
            "cued": "Question: {question}\nOptions:\n{options}\nAnswer:",
            "no_question": "{context}Answer:",
            "zero_shot": "Question: {question}\nAnswer:",
        },
        "probes": ["open", "cued", "choice", "choice_no_question"],
        "max_new_tokens": 256,
        "stop": ["\nQuestion:", "\nOptions:", "\nAnswer:"],
    },
    options="brought",
    licence="CC0 1.0",
)
