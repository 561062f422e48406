"""Turn an entry of a data set into a question, or into a message that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomia.errors import DataError
from anomia.grade import normalize
from anomia.items.item import Question
from anomia.items.languages import language_code, language_name
from anomia.text_files import as_text, is_absent

MOST_DISTRACTORS = 25
IDS = ("id", "question_id", "qid")
CONTEXTS = ("context", "passage", "support", "article", "flores_passage")


def read_entry(
    entry: Any, place: str, *, context_required: bool, fields: Iterable[str] | None = None
) -> Question:
    """Read a question from an object with id, language, context, question, answers and optional distractors.

    fields: the file's names for the fields, for messages; None if they are the entry's keys.

    Raises:
        DataError: a part is missing or of another type; the message begins with `place`.
    """
    if not isinstance(entry, dict):
        raise DataError(f"data: {place} is not an object with id, language, context, question, answers")
    has = f"it has {field_names(entry if fields is None else fields)}"
    item_id = text_of(entry, "id", place)
    if not item_id:
        raise DataError(f"data: {place} has no id; give every question its own id")
    place = f"{place} (id {item_id})"
    language, question = (text_of(entry, key, place) for key in ("language", "question"))
    for key, text in (("language", language), ("question", question)):
        if not text:
            raise DataError(f"data: {place} has no {key}; {has}")
    context = entry.get("context")
    if is_absent(context) and not context_required:
        context = ""
    elif is_absent(context):
        raise DataError(f"data: {place} has no passage ('context')")
    elif (context := as_text(context)) is None:
        raise DataError(f"data: {place}: its passage ('context') is not a text; give one text")
    answers = read_texts(entry.get("answers"), "answers", place)
    if not answers:
        raise DataError(f"data: {place} has no answer; {has}; give at least one text in 'answers'")
    return Question(
        id=item_id,
        language=language_name(language),
        context=context,
        question=question,
        answers=answers,
        distractors=_distractors(entry, answers, place),
        passage_distractors=_passage_distractors(entry, answers, place),
    )


def is_unanswerable(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is marked unanswerable, in the form of SQuAD 2's files or of its hub rows."""
    answers = entry.get("answers")
    return entry.get("is_impossible") is True or (isinstance(answers, Mapping) and answers.get("text") == [])


def text_of(entry: Mapping[str, Any], key: str, place: str) -> str:
    """The field's text or number as stripped text; "" if it is absent.

    Raises:
        DataError: the value is neither a text nor a number.
    """
    value = entry.get(key)
    if is_absent(value):
        return ""
    text = as_text(value)
    if text is None:
        raise DataError(f"data: {place}: {key!r} is not a text; put it into quotes")
    return text.strip()


def read_texts(value: Any, key: str, place: str) -> tuple[str, ...]:
    """The distinct stripped texts of a value; a single text counts as a list of one, null as an empty list.

    Known objects: SQuAD's `{"text": ["Ann", …]}` on the hub and `[{"text": "Ann"}, …]` in files, and TriviaQA's
    `{"value": "Ann", "aliases": […]}`.
    """
    if isinstance(value, Mapping):
        value = _of_object(value, key, place)
    listed = [
        _of_object(each, key, place) if isinstance(each, Mapping) else each
        for each in (value if isinstance(value, list) else [value])
    ]
    texts = [as_text(each) for each in listed if each is not None]
    known = [text.strip() for text in texts if text is not None]
    if len(known) != len(texts):
        raise DataError(f"data: {place}: {key!r} is not a list of texts; put each into quotes")
    return tuple(dict.fromkeys(text for text in known if text))


def _of_object(value: Mapping[str, Any], key: str, place: str) -> Any:
    if "text" in value:
        return value["text"]
    if "value" in value:
        aliases = value.get("aliases") or []
        return [value["value"], *aliases] if isinstance(aliases, list) else value["value"]
    raise DataError(
        f"data: {place}: {key!r} holds an object with {field_names(map(str, value))}; give texts, or objects with "
        "'text'"
    )


def lowered(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The fields, keyed by name in lower case.

    >>> lowered({"answer": 1, "Answer": None, "answerKey": "B"}, "x.jsonl, line 1")
    {'answer': 1, 'answerkey': 'B'}

    Raises:
        DataError: two names differ only in case and their values differ.
    """
    found: dict[str, Any] = {}
    for name, value in row.items():
        known = found.get(name.lower())
        if is_absent(known):
            found[name.lower()] = value
        elif not is_absent(value) and value != known:
            raise DataError(
                f"data: {place} has the field {name.lower()[:40]!r} twice with different values; keep one"
            )
    return found


def first_given(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """Name and value of the first field that has a value; ("", None) if none has."""
    return next(((name, row[name]) for name in names if not is_absent(row.get(name))), ("", None))


def field_names(names: Iterable[str]) -> str:
    """The first 12 field names of a row or header, for a one-line message."""
    listed = list(names)
    shown = [name[:40] if name[:40].isprintable() else repr(name[:40]) for name in listed[:12]]
    more = [f"{len(listed) - len(shown)} more"] if len(listed) > len(shown) else []
    return ", ".join([*shown, *more]) or "no fields"


def refuse_repeated_ids(questions: Iterable[Question], place: str) -> None:
    """Refuse ids that occur twice: ids identify questions in the records."""
    seen: dict[str, Question] = {}
    for number, question in enumerate(questions, start=1):
        other = seen.setdefault(question.id, question)
        if other is question:
            continue
        if other == question:
            raise DataError(
                f"data: {place}: the question with the id {question.id!r} appears twice, the second time as question "
                f"{number}; keep one of them"
            )
        raise DataError(
            f"data: {place}: two questions have the id {question.id!r}: {_short(other.question)} and "
            f"{_short(question.question)}; ids must differ"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def file_language(file: Path) -> str | None:
    """The language in a file name: a name anywhere in it, or a code as its last part; None if it has neither.

    `swahili.json`, `arc.swahili.test.jsonl` and `mmlu_sw.csv` are Swahili; `us_history.csv` names no language, and
    `my.jsonl` isn't Burmese.
    """
    if file.stem.lower() == "my":
        return None
    parts = file.stem.lower().replace("-", ".").replace("_", ".").split(".")
    spelt = [part for part in parts if len(part) > 2 and language_code(part)]
    if spelt:
        return spelt[-1]
    return language_name(parts[-1]) if language_code(parts[-1]) else None


def by_language(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Questions grouped by language name, in their order."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.language, []).append(question)
    return found


def _distractors(entry: dict[str, Any], answers: Sequence[str], place: str) -> tuple[str, ...]:
    texts = read_texts(entry.get("distractors"), "distractors", place)
    if len(texts) > MOST_DISTRACTORS:
        raise DataError(f"data: {place}: {len(texts)} 'distractors'; a choice has at most 26 options")
    _refuse_right(texts, "distractors", answers, place)
    return texts


def _passage_distractors(entry: dict[str, Any], answers: Sequence[str], place: str) -> tuple[str, ...]:
    key = "passage_distractors"
    texts = read_texts(entry.get(key), key, place)
    forms = {normalize(text) for text in texts}
    if texts and len(forms) < 3:
        raise DataError(f"data: {place}: {key!r} has {len(forms)} different texts; give three, or none")
    _refuse_right(texts, key, answers, place)
    return texts


def _refuse_right(texts: Sequence[str], key: str, answers: Sequence[str], place: str) -> None:
    if {normalize(text) for text in texts} & {normalize(answer) for answer in answers}:
        raise DataError(f"data: {place}: {key!r} holds an answer; every distractor must be wrong")
