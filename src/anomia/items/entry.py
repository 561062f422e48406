"""From one entry of a data set to a question, or a message that says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anomia.errors import DataError
from anomia.grade import normalize
from anomia.items.item import Question
from anomia.items.languages import language_code, language_name

MOST_DISTRACTORS = 25


def read_entry(
    entry: Any, place: str, *, context_required: bool, fields: Iterable[str] | None = None
) -> Question:
    """A question from an object with id, language, context, question, answers and, perhaps, distractors.

    fields: what the file calls the object's fields, for messages; None where they are the entry's own.

    Raises:
        DataError: a part is missing or of another type; the message begins with `place`.
    """
    if not isinstance(entry, dict):
        raise DataError(f"data: {place} is not an object with id, language, context, question, answers")
    item_id = entry.get("id")
    if not isinstance(item_id, (str, int)) or isinstance(item_id, bool) or str(item_id).strip() == "":
        raise DataError(f"data: {place} has no id; give every question one of its own")
    place = f"{place} (id {item_id})"
    for key in ("language", "question"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise DataError(
                f"data: {place} has no {key}; it has {field_names(entry if fields is None else fields)}"
            )
    context = entry.get("context") if context_required else entry.get("context", "") or ""
    if not isinstance(context, str) or (context_required and not context.strip()):
        raise DataError(f"data: {place} has no passage ('context')")
    given = entry.get("answers")
    answers = () if given is None else read_texts(given, "answers", place)
    if not answers:
        raise DataError(
            f"data: {place} has no answer; it has {field_names(entry if fields is None else fields)}; give at least one text in 'answers'"
        )
    return Question(
        id=str(item_id),
        language=language_name(entry["language"]),
        context=context,
        question=entry["question"].strip(),
        answers=answers,
        distractors=_distractors(entry, answers, place),
        passage_distractors=_passage_distractors(entry, answers, place),
    )


def parse_json(text: str | bytes, place: str) -> Any:
    """The JSON value of a text.

    Raises:
        DataError: it is none, is nested too deeply, or holds half a character, which can't be written again.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise DataError(f"data: {place} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except UnicodeEncodeError:
        raise DataError(f"data: {place} holds half a character (a lone surrogate such as \\ud800)") from None
    except json.JSONDecodeError as error:
        raise DataError(f"data: {place} is not JSON (line {error.lineno}: {error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"data: {place} is not JSON that can be read: {error}") from None
    return value


def read_texts(value: Any, key: str, place: str) -> tuple[str, ...]:
    """Different texts without white space around them; a lone one is a list of one, a whole number its digits."""
    listed = value if isinstance(value, list) else [value]
    texts = [as_text(text) for text in listed]
    known = [text.strip() for text in texts if text is not None]
    if len(known) != len(texts):
        raise DataError(f"data: {place}: {key!r} is not a list of texts; put each into quotes")
    return tuple(dict.fromkeys(text for text in known if text))


def as_text(value: Any) -> str | None:
    """A text, or a whole number as it is written; None for anything else.

    >>> as_text("Lima"), as_text(1889), as_text(True), as_text(0.5)
    ('Lima', '1889', None, None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def lowered(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by their names in lower case; of two such names the one that was in lower case counts.

    >>> lowered({"answer": 1, "Answer": 2, "answerKey": "B"})
    {'answer': 1, 'answerkey': 'B'}
    """
    found = {name.lower(): value for name, value in row.items()}
    return {**found, **{name: value for name, value in row.items() if name in found}}


def field_names(names: Iterable[str]) -> str:
    """The first names of a row or a header, for a message of one line."""
    listed = list(names)
    shown = [name[:40] if name[:40].isprintable() else repr(name[:40]) for name in listed[:12]]
    more = [f"{len(listed) - len(shown)} more"] if len(listed) > len(shown) else []
    return ", ".join([*shown, *more]) or "no fields"


def refuse_repeated_ids(questions: Iterable[Question], place: str) -> None:
    """Ids name questions in the records, so two can't share one."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(f"data: {place}: two questions have the id {question.id!r}; ids must differ")
        seen.add(question.id)


def file_language(file: Path) -> str | None:
    """The language that a file name tells: a name anywhere in it, or a code as its last part.

    `swahili.json`, `arc.swahili.test.jsonl` and `mmlu_sw.csv` are Swahili; `us_history.csv` is of no language.
    """
    parts = file.stem.lower().replace("-", ".").replace("_", ".").split(".")
    spelt = [part for part in parts if len(part) > 2 and language_code(part)]
    if spelt:
        return spelt[-1]
    return language_name(parts[-1]) if language_code(parts[-1]) else None


def by_language(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Questions by the name of their language, in their order."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.language, []).append(question)
    return found


def _distractors(entry: dict[str, Any], answers: Sequence[str], place: str) -> tuple[str, ...]:
    texts = read_texts(entry.get("distractors", []), "distractors", place)
    if len(texts) > MOST_DISTRACTORS:
        raise DataError(f"data: {place}: {len(texts)} 'distractors'; a choice has at most 26 options")
    _refuse_right(texts, "distractors", answers, place)
    return texts


def _passage_distractors(entry: dict[str, Any], answers: Sequence[str], place: str) -> tuple[str, ...]:
    key = "passage_distractors"
    texts = read_texts(entry.get(key, []), key, place)
    forms = {normalize(text) for text in texts}
    if texts and len(forms) < 3:
        raise DataError(f"data: {place}: {key!r} has {len(forms)} different texts; give three, or none")
    _refuse_right(texts, key, answers, place)
    return texts


def _refuse_right(texts: Sequence[str], key: str, answers: Sequence[str], place: str) -> None:
    if {normalize(text) for text in texts} & {normalize(answer) for answer in answers}:
        raise DataError(f"data: {place}: {key!r} holds an answer; every distractor must be wrong")
