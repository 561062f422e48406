"""The shipped questions, written for this project in the languages of TyDi QA."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from anomia.items.data_set import DataSet, by_code
from anomia.items.entry import by_language
from anomia.items.item import Question
from anomia.items.json_lines import read_json_questions

_LANGUAGES = by_code("ar", "bn", "en", "fi", "id", "ko", "ru", "sw", "te")


def _read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    folder = resources.files("anomia.items") / "demo"
    questions: dict[str, list[Question]] = {}
    for language in _LANGUAGES:
        file = folder / f"{language}.jsonl"
        questions.update(
            by_language(read_json_questions(file.read_bytes(), f"demo/{language}.jsonl", language))
        )
    return questions


SET = DataSet(
    name="demo",
    title="Anomia's own questions",
    languages=_LANGUAGES,
    read=_read,
    options="either",
    licence="CC0 1.0",
)
