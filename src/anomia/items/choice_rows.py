"""One row of a set with options, by the names that MMLU, ARC, HellaSwag and their like give its fields.

The table stands in `docs/questions.md`. Upper and lower case of a name are the same.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anomia.errors import DataError
from anomia.items.entry import MOST_DISTRACTORS, as_text, field_names, lowered, parse_json
from anomia.items.languages import language_name

# The first that a row has is taken. Fields that only one known set has stand behind the general ones.
QUESTIONS = ("question", "question_stem", "goal", "ctx", "sentence")
ANSWERS = ("answerkey", "answer", "correct_answer_num", "answer_index", "correct_answer", "cop", "label")
_CONTEXTS = ("context", "passage", "support", "article", "flores_passage")
_IDS = ("id", "question_id", "qid")
_LISTS = ("choices", "options", "endings")
_COLUMNS = ("", "option_", "option", "choice_", "choice", "mc_answer", "op", "sol")
# How answers are counted where that is known: by the field of the options or the question, and of the answer.
_FROM_ONE = "correct_answer_num"  # Belebele
_USUAL = {
    ("endings", "label"): "index",  # HellaSwag
    ("sol", "label"): "index",  # PIQA
    ("sentence", "answer"): "index1",  # Winogrande
}


class Row(NamedTuple):
    """One question as the file gives it.

    usual: how its answer is read where that is known. right: the place of the right option where the row
    itself tells it; there is no answer to be read then.
    """

    place: str
    id: str
    language: str | None
    context: str
    question: str
    options: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str | int | None
    usual: str | None
    right: int | None


class _Options(NamedTuple):
    field: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    right: int | None = None


def read_row(raw: Mapping[str, Any], place: str, number: int) -> Row:
    """A row from its fields; `number` is its id where it has none.

    Raises:
        DataError: a part is missing or of another type; the message begins with `place`.
    """
    row = lowered(raw)
    field, question = _first(row, QUESTIONS)
    source: Mapping[str, Any] = row
    if isinstance(question, Mapping):
        nested = lowered(question)
        source, question = {**row, **nested}, nested.get("stem")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"data: {place} has no question; it has {field_names(raw)}")
    options = _options(source, place)
    key, answer = _first(row, ANSWERS)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if options.right is not None:
        answer = None
    elif answer is None:
        raise DataError(
            f"data: {place} has no answer; it has {field_names(raw)}; give a label, a letter, an index or the text "
            "in 'answer'"
        )
    elif as_text(answer) is None:
        raise DataError(
            f"data: {place} has no answer that can be read in {key!r}; give a label, a letter, an index or the text"
        )
    context = next((row[name] for name in _CONTEXTS if row.get(name)), "")
    language, (_, given_id) = row.get("language"), _first(row, _IDS)
    if not isinstance(context, str) or not isinstance(language, str | None):
        raise DataError(f"data: {place}: 'context' and 'language' are texts")
    return Row(
        place=place,
        id=str(number if given_id is None else given_id),
        language=language_name(language) if language else None,
        context=context,
        question=question.strip(),
        options=options.texts,
        labels=options.labels,
        answer=answer.strip() if isinstance(answer, str) else answer,
        usual="index1" if key == _FROM_ONE else _USUAL.get((options.field, key)) or _USUAL.get((field, key)),
        right=options.right,
    )


def _first(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """Name and value of the first field that says something; ("", None) where none does."""
    given = ((name, row[name]) for name in names if row.get(name) not in (None, ""))
    return next(given, ("", None))


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
            f"data: {place} has {len([text for text in found.texts if text])} options that say something; 2 to 26 "
            "can be asked"
        )
    if found.labels and len(found.labels) != len(found.texts):
        raise DataError(f"data: {place} has {len(found.texts)} options and {len(found.labels)} labels")
    return found


def _list_of_options(source: Mapping[str, Any], place: str) -> _Options | None:
    """`["one", …]`, `{"text": ["one", …], "label": ["A", …]}` or `[{"text": "one", "label": "A"}, …]`."""
    field, found = _first(source, _LISTS)
    if not field:
        return None
    found = _unpacked(found, place)
    labels: Any = ()
    if isinstance(found, Mapping):
        found = lowered(found)
        labels = found.get("label") or ()
        found = found.get("text")
    elif isinstance(found, list) and found and all(isinstance(option, Mapping) for option in found):
        labels = [option.get("label") for option in found if option.get("label") is not None]
        found = [option.get("text") for option in found]
    if not isinstance(labels, list | tuple):
        raise DataError(f"data: {place} has labels that are no list; give as many labels as options")
    return _Options(field, _texts(found, field, place), tuple(str(label).strip() for label in labels))


def _marked_options(source: Mapping[str, Any], place: str) -> _Options | None:
    """TruthfulQA's `{"choices": […], "labels": [1, 0, …]}`, where 1 marks the right one."""
    field = "mc1_targets"
    found = _unpacked(source.get(field), place)
    if not isinstance(found, Mapping):
        return None
    texts, marks = _texts(found.get("choices"), field, place), found.get("labels")
    if not isinstance(marks, list) or len(marks) != len(texts) or marks.count(1) != 1:
        raise DataError(f"data: {place}: {field!r} marks no single right option with a 1 in its 'labels'")
    return _Options(field, texts, right=marks.index(1))


def _option_columns(source: Mapping[str, Any], place: str) -> _Options | None:
    """Options in columns of their own, up to the first that is empty."""
    for prefix in _COLUMNS:
        for names in (string.ascii_lowercase, _NUMBERS):
            found = _filled(source, prefix, names)
            if len(found) >= 2:
                return _Options(prefix, found)
    return None


def _distractor_columns(source: Mapping[str, Any], place: str) -> _Options | None:
    """SciQ's `correct_answer` and `distractor1`, `distractor2`, …"""
    right, wrong = as_text(source.get("correct_answer")), _filled(source, "distractor", _NUMBERS)
    return _Options("distractor", (right.strip(), *wrong), right=0) if right and wrong else None


_NUMBERS = tuple(str(number) for number in range(1, MOST_DISTRACTORS + 2))


def _filled(source: Mapping[str, Any], prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    found = []
    for name in names:
        text = as_text(source.get(prefix + name))
        if text is None or not text.strip():
            break
        found.append(text.strip())
    return tuple(found)


def _unpacked(value: Any, place: str) -> Any:
    """A list or an object that stands as text in a CSV file."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        return parse_json(value, f"{place}: its list of options")
    return value


def _texts(value: Any, field: str, place: str) -> tuple[str, ...]:
    texts = [as_text(text) for text in value] if isinstance(value, list) else [None]
    known = tuple(text.strip() for text in texts if text is not None)
    if len(known) != len(texts):
        raise DataError(f"data: {place} has no options that can be read in {field!r}; give a list of texts")
    return known
