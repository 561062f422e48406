"""A file of questions and answers, one JSON object per line."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.errors import DataError
from anomia.items.data_set import DataSet, as_path
from anomia.items.entry import by_language, file_language
from anomia.items.item import Question
from anomia.items.json_lines import read_json_questions
from anomia.text_files import read_bytes


def _read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    path = as_path(argument)
    if not path.is_file():
        raise DataError(f"data: {path} does not exist; give a JSON-lines file")
    language = file_language(path) or "english"
    return by_language(read_json_questions(read_bytes(path), str(path), language))


SET = DataSet(
    name="jsonl",
    title="JSON lines",
    read=_read,
    path="needed",
    endings=(".jsonl",),
    holds="questions and answers",
    options="either",
)
