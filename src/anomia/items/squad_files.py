"""SQuAD's format: JSON files of articles, paragraphs and questions, one file per language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anomia.errors import DataError
from anomia.items.data_set import as_path, refuse_unknown
from anomia.items.entry import is_unanswerable, read_entry
from anomia.items.item import Question
from anomia.items.languages import language_code, language_name
from anomia.text_files import parse_json, read_text


def read_squad_files(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    """Read questions by language, from one file or a folder with one file per language.

    Raises:
        DataError: a file doesn't exist or can't be used.
    """
    path = as_path(argument)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise DataError(
                f"data: the folder {path} has no .json file; give a folder with one file per language"
            )
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"data: {path} does not exist; give a SQuAD-format JSON file or a folder of them")
    of_language: dict[str, Path] = {}
    for file in files:
        language = _squad_language(file)
        if language in of_language:
            raise DataError(
                f"data: {of_language[language].name} and {file.name} in {path} are both {language}; "
                "a folder has one file per language"
            )
        of_language[language] = file
    refuse_unknown(f"squad:{path}", wanted or (), of_language)
    selected = of_language if wanted is None else {k: v for k, v in of_language.items() if k in wanted}
    return {language: list(_squad_questions(file, language)) for language, file in selected.items()}


def _squad_language(file: Path) -> str:
    """The language in a file name: `swahili.json`, `xquad.sw.json` and `xquad.sw.v1.json` are all Swahili.

    A name without a known language is itself the language.
    """
    parts = re.split(r"[._-]", file.stem.lower())
    codes = [part for part in reversed(parts) if language_code(part)]
    return language_name(codes[0] if codes else file.stem)


def _squad_questions(file: Path, language: str) -> Iterator[Question]:
    content = parse_json(read_text(file), str(file))
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise DataError(
            f"data: {file} is not in SQuAD format: it has no list under 'data'; for rows with one question each write "
            f"jsonl:{file}"
        )
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{file}: data[{a}]")):
            place = f"{file}: data[{a}].paragraphs[{p}]"
            for q, entry in enumerate(_list(paragraph, "qas", place)):
                if isinstance(entry, dict) and is_unanswerable(entry):
                    continue
                if not isinstance(entry, dict) or not isinstance(entry.get("answers"), list | dict):
                    raise DataError(f"data: {place}.qas[{q}] has no list 'answers'; see the SQuAD format")
                yield read_entry(
                    {
                        "id": entry.get("id"),
                        "language": language,
                        "context": paragraph.get("context"),
                        "question": entry.get("question"),
                        "answers": entry["answers"],
                    },
                    f"{place}.qas[{q}]",
                    context_required=True,
                )


def _list(value: Any, key: str, place: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise DataError(f"data: {place} has no list {key!r}; see the SQuAD format")
    return found
