"""Questions and answers as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator

from anomia.errors import DataError
from anomia.items.entry import IDS, field_names, first_given, is_unanswerable, lowered, read_entry
from anomia.items.item import Question
from anomia.text_files import is_absent, json_rows

_CONTEXTS = ("context", "passage")


def read_json_questions(content: bytes, name: str, language: str) -> Iterator[Question]:
    """Read one question per line. As in NQ-open, `answer` works for `answers`, and id and language are optional."""
    count = asked = 0
    for place, count, raw in json_rows(content, name):
        entry, fields = raw, None
        if isinstance(raw, dict):
            fields, entry = tuple(raw), lowered(raw, place)
            if is_unanswerable(entry):
                continue
            if is_absent(entry.get("answers")) and not entry.keys().isdisjoint(("choices", "options")):
                raise DataError(
                    f"data: {place} has options; it has {field_names(fields)}; give the file as mc:{name}"
                )
            for key, names in (("id", IDS), ("context", _CONTEXTS), ("answers", ("answers", "answer"))):
                entry[key] = first_given(entry, names)[1]
            for key, value in (("id", str(count)), ("language", language)):
                entry[key] = value if is_absent(entry.get(key)) else entry[key]
        asked += 1
        yield read_entry(entry, place, context_required=False, fields=fields)
    if not asked:
        why = "has no question with an answer" if count else "is empty; it needs one JSON object per line"
        raise DataError(f"data: {name} {why}")
