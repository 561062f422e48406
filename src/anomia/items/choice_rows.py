"""Read one multiple-choice row, under the field names used by MMLU, ARC, HellaSwag and similar data sets.

`docs/questions.md` has the table of names. Field names are case-insensitive.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from anomia.errors import DataError
from anomia.items.entry import CONTEXTS, IDS, MOST_DISTRACTORS, field_names, first_given, lowered, text_of
from anomia.items.languages import language_name
from anomia.text_files import as_text, is_absent, unpacked

# The first field that a row has wins. General names come before those that only one known data set uses.
QUESTIONS = ("question", "question_stem", "goal", "ctx", "sentence")
ANSWERS = ("answerkey", "answer", "correct_answer_num", "answer_index", "correct_answer", "cop", "label")
_LISTS = ("choices", "options", "endings")
_COLUMNS = ("", "option_", "option", "choice_", "choice", "mc_answer", "op", "sol")
# Known readings of answers, by (field of the options or the question, field of the answer).
_FROM_ONE = "correct_answer_num"  # Belebele
_USUAL = {
    ("endings", "label"): "index",  # HellaSwag
    ("sol", "label"): "index",  # PIQA
    ("sentence", "answer"): "index1",  # Winogrande
}


class ChoiceRow(NamedTuple):
    """One question as the file gives it.

    place: where the row is, for messages. usual: the reading of its answer, if its layout is known.
    right: the position of the right option, if the row itself marks it; `answer` is then None.
    """

    place: str
    id: str
    language: str | None
    context: str
    question: str
    options: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str | None
    usual: str | None
    right: int | None


class _Options(NamedTuple):
    field: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    right: int | None = None


def read_row(raw: Mapping[str, Any], place: str, number: int) -> ChoiceRow:
    """Read a row from its fields; `number` is its id if it has none.

    Raises:
        DataError: a part is missing or of another type; the message begins with `place`.
    """
    row = lowered(raw, place)
    field, question = first_given(row, QUESTIONS)
    source: Mapping[str, Any] = row
    if isinstance(question, Mapping):
        nested = lowered(question, place)
        source, question = {**row, **nested}, nested.get("stem")
    if is_absent(question) or (question := as_text(question)) is None:
        raise DataError(f"data: {place} has no question; it has {field_names(raw)}")
    options = _options(source, place)
    key, given = first_given(row, ANSWERS)
    answer = as_text(given)
    if options.right is not None:
        answer = None
    elif is_absent(given):
        raise DataError(
            f"data: {place} has no answer; it has {field_names(raw)}; give a label, a letter, an index or the text "
            "in 'answer'"
        )
    elif answer is None:
        raise DataError(
            f"data: {place} has no answer that can be read in {key!r}; give a label, a letter, an index or the text"
        )
    has_context, context = first_given(row, CONTEXTS)
    context = as_text(context) if has_context else ""
    if context is None:
        raise DataError(f"data: {place}: 'context' and 'language' are texts")
    language = text_of(row, "language", place)
    return ChoiceRow(
        place=place,
        id=text_of(row, first_given(row, IDS)[0], place) or str(number),
        language=language_name(language) if language else None,
        context=context,
        question=question.strip(),
        options=options.texts,
        labels=options.labels,
        answer=answer and answer.strip(),
        usual="index1" if key == _FROM_ONE else _USUAL.get((options.field, key)) or _USUAL.get((field, key)),
        right=options.right,
    )


def _options(source: Mapping[str, Any], place: str) -> _Options:
    for read in (_list_of_options, _marked_options, _option_columns, _distractor_columns):
        found = read(source, place)
        if found is not None:
            break
    else:
        raise DataError(
            f"data: {place} has no options; it has {field_names(source)}; give a list of texts in 'options', or "
            "columns A, B, C, …"
        )
    if not all(found.texts) or not 2 <= len(found.texts) <= MOST_DISTRACTORS + 1:
        raise DataError(
            f"data: {place} has {len([text for text in found.texts if text])} options that are not empty; 2 to 26 "
            "can be asked"
        )
    if found.labels and len(found.labels) != len(found.texts):
        raise DataError(f"data: {place} has {len(found.texts)} options and {len(found.labels)} labels")
    return found


def _list_of_options(source: Mapping[str, Any], place: str) -> _Options | None:
    """Options as a list of texts, or as texts with labels in one of the forms of `_labelled`."""
    field, found = first_given(source, _LISTS)
    if not field:
        return None
    found, labels = _labelled(unpacked(found, f"{place}: its list of options"), place)
    if not isinstance(labels, list | tuple):
        raise DataError(f"data: {place} has labels that are not a list; give one label per option")
    texts = _texts(found, field, place)
    # Tables with a fixed number of options pad shorter rows with null.
    labels = labels[: len(texts)] if isinstance(found, list) and len(labels) == len(found) else labels
    return _Options(field, texts, tuple((as_text(label) or "").strip() for label in labels))


def _labelled(found: Any, place: str) -> tuple[Any, Any]:
    """Options and their labels, if any.

    Known forms: `{"text": ["one", …], "label": ["A", …]}`, `{"A": "one", …}`, or a list of
    `{"text": "one", "label": "A"}` or `{"key": "A", "value": "one"}`.
    """
    if isinstance(found, Mapping):
        names = lowered(found, place)
        if "text" in names:
            return names["text"], names.get("label") or ()
        # In a column of objects, each object has the union of all keys, with null for the missing ones.
        named = [name for name, text in found.items() if text is not None]
        return [found[name] for name in named], named
    if isinstance(found, list) and found and all(isinstance(option, Mapping) for option in found):
        text, label = ("text", "label") if "text" in found[0] else ("value", "key")
        given = [option for option in found if option.get(text) is not None]
        return [option[text] for option in given], [
            option[label] for option in given if option.get(label) is not None
        ]
    return found, ()


def _marked_options(source: Mapping[str, Any], place: str) -> _Options | None:
    """TruthfulQA's `mc1_targets`: `{"choices": […], "labels": [1, 0, …]}`, where 1 marks the right option."""
    field = "mc1_targets"
    found = unpacked(source.get(field), f"{place}: its list of options")
    if not isinstance(found, Mapping):
        return None
    texts, marks = _texts(found.get("choices"), field, place), found.get("labels")
    if not isinstance(marks, list) or len(marks) != len(texts) or marks.count(1) != 1:
        raise DataError(f"data: {place}: {field!r} marks no single right option with a 1 in its 'labels'")
    return _Options(field, texts, right=marks.index(1))


def _option_columns(source: Mapping[str, Any], place: str) -> _Options | None:
    """Options with one column each; the last ones may be empty."""
    for prefix in _COLUMNS:
        for names in (string.ascii_lowercase, _NUMBERS):
            found = _filled(source, prefix, names, place)
            if len(found) >= 2:
                return _Options(prefix, found)
    return None


def _distractor_columns(source: Mapping[str, Any], place: str) -> _Options | None:
    """SciQ's `correct_answer` and `distractor1`, `distractor2`, …"""
    right, wrong = as_text(source.get("correct_answer")), _filled(source, "distractor", _NUMBERS, place)
    return _Options("distractor", (right.strip(), *wrong), right=0) if right and wrong else None


_NUMBERS = tuple(str(number) for number in range(1, MOST_DISTRACTORS + 2))


def _filled(source: Mapping[str, Any], prefix: str, names: Sequence[str], place: str) -> tuple[str, ...]:
    """The texts of consecutive columns, up to the first missing or empty one.

    Raises:
        DataError: a column after an empty one is filled, which would shift letters and indices.
    """
    columns = list(takewhile(source.__contains__, (prefix + name for name in names)))
    texts = ["" if is_absent(source[name]) else (as_text(source[name]) or "").strip() for name in columns]
    found = tuple(takewhile(bool, texts))
    if len(found) >= 2 and any(texts[len(found) :]):
        raise DataError(f"data: {place}: the option {columns[len(found)]!r} is empty and a later one is not")
    return found


def _texts(value: Any, field: str, place: str) -> tuple[str, ...]:
    """The texts of a list, without nulls at its end."""
    if not isinstance(value, list):
        raise DataError(f"data: {place} has no options that can be read in {field!r}; give a list of texts")
    listed = list(value)
    while listed and listed[-1] is None:
        listed.pop()
    texts = [as_text(text) for text in listed]
    known = tuple(text.strip() for text in texts if text is not None)
    if len(known) != len(texts):
        raise DataError(f"data: {place} has no options that can be read in {field!r}; give a list of texts")
    return known
