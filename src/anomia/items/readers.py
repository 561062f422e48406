"""Readers of data sets: from `tydiqa`, `squad:FOLDER` and the like to questions, by language.

A reader refuses what can't be used (no answer, no id, no passage, an id given twice) with one
message that names the place; it never repairs in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from anomia.errors import DataError, nearest
from anomia.items import hub
from anomia.items.choices import read_choices, split_answer
from anomia.items.entry import (
    IDS,
    by_language,
    field_names,
    file_language,
    first_given,
    is_unanswerable,
    lowered,
    read_entry,
    refuse_repeated_ids,
)
from anomia.items.hub import MLQA_LANGUAGES, TYDIQA_LANGUAGES, XQUAD_LANGUAGES
from anomia.items.item import Question
from anomia.items.languages import language_code, language_name
from anomia.text_files import is_absent, json_rows, parse_json, read_bytes, read_text

Reader = Callable[[str, Sequence[str] | None], dict[str, list[Question]]]

DEMO_LANGUAGES = TYDIQA_LANGUAGES
LANGUAGES_OF = {
    "tydiqa": TYDIQA_LANGUAGES,
    "xquad": XQUAD_LANGUAGES,
    "mlqa": MLQA_LANGUAGES,
    "squad": ("english",),
    "demo": DEMO_LANGUAGES,
}
NEEDS_PATH = ("jsonl", "mc")
MAY_HAVE_PATH = ("squad", *NEEDS_PATH)
_CONTEXTS = ("context", "passage")
# What a path without a data set's name may be, by its ending; a folder has none.
_HOLDS = {
    ".jsonl": ("jsonl", "mc"),
    ".json": ("squad", "mc"),
    ".csv": ("mc",),
    ".tsv": ("mc",),
    ".parquet": ("mc",),
    "": ("squad", "mc"),
}
_MEANS = {
    "jsonl": "questions and answers",
    "mc": "questions with options",
    "squad": "SQuAD's format",
}


def read_questions(data: str, languages: Sequence[str] | None = None) -> dict[str, list[Question]]:
    """Reads a data set.

    Args:
        data: `tydiqa`, `xquad`, `mlqa`, `squad` or `belebele` from the hub; `squad:FILE_OR_FOLDER`,
            `mc:FILE_OR_FOLDER` (with `,answer=READING` behind it where answers can be read in two ways),
            `jsonl:FILE`; or `demo`.
        languages: names or codes; None takes all that the data set has.

    Returns:
        Questions by language name, in the data set's own order.

    Raises:
        DataError: the data set, a language or an item can't be used.
    """
    try:
        name, _, argument = check_data(data).partition(":")
    except DataError as error:
        raise DataError(f"data: {error}") from None
    reader = _READERS[name]
    wanted = None if languages is None else [language_name(language) for language in languages]
    try:
        questions = reader(argument, wanted)
    except OSError as error:
        raise DataError(f"data: {data[:200]} can't be read: {error.strerror or error}") from None
    if wanted is None:
        wanted = sorted(questions)
    _refuse_unknown(data, wanted, questions)
    for language in wanted:
        refuse_repeated_ids(questions[language], f"{data}, {language}")
    return {language: questions[language] for language in wanted}


def check_data(data: str) -> str:
    """Returns the name of a data set if it is one, without reading it.

    Raises:
        DataError: it is unknown, or lacks its path. The message does not say that it is about `data`: beside
            other faults of a study, the key stands before it.
    """
    name, colon, argument = data.partition(":")
    if name not in _READERS:
        _refuse_name(data)
    if name == "mc":
        argument, _ = split_answer(argument)
    if not argument and (name in NEEDS_PATH or (colon and name in MAY_HAVE_PATH)):
        raise DataError(f"{name!r} needs a path, as in {name}:questions.jsonl")
    if name not in MAY_HAVE_PATH and argument:
        raise DataError(f"{name!r} takes no argument, {data!r} has one; write {name!r}")
    return data


def _refuse_name(data: str) -> NoReturn:
    path = _path(data)
    try:
        kind = "folder" if path.is_dir() else "file" if path.is_file() else ""
    except (OSError, ValueError):
        kind = ""
    ending = "" if kind == "folder" else path.suffix.lower()
    if (kind or (ending and ":" not in data)) and ending in _HOLDS:
        remedies = " or ".join(f"{name}:{data} ({_MEANS[name]})" for name in _HOLDS[ending])
        raise DataError(f"{data!r} is a path; say how it is read: {remedies}")
    raise DataError(f"unknown data set {data!r}; {nearest(data.partition(':')[0], _READERS)}")


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # `~somebody`, whom this machine doesn't know
        return Path(text)


def _read_squad(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    path = _path(argument)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise DataError(
                f"data: the folder {path} has no .json file; give a folder with one file a language"
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
                "a folder has one file a language"
            )
        of_language[language] = file
    _refuse_unknown(f"squad:{path}", wanted or (), of_language)
    selected = of_language if wanted is None else {k: v for k, v in of_language.items() if k in wanted}
    return {language: list(_squad_questions(file, language)) for language, file in selected.items()}


def _squad_language(file: Path) -> str:
    """`swahili.json`, `xquad.sw.json` and `xquad.sw.v1.json` are all Swahili; else the name is the language."""
    parts = re.split(r"[._-]", file.stem.lower())
    codes = [part for part in reversed(parts) if language_code(part)]
    return language_name(codes[0] if codes else file.stem)


def _squad_questions(file: Path, language: str) -> Iterator[Question]:
    content = parse_json(read_text(file), str(file))
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise DataError(
            f"data: {file} is not in SQuAD format: it has no list under 'data'; rows with a question each are jsonl:{file}"
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


def _read_jsonl(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    path = _path(argument)
    if not path.is_file():
        raise DataError(f"data: {path} does not exist; give a JSON-lines file")
    language = file_language(path) or "english"
    return by_language(_jsonl_questions(read_bytes(path), str(path), language))


def _read_mc(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    path, answer = split_answer(argument)
    return read_choices(_path(path), answer=answer)


def _read_demo(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    folder = resources.files("anomia.items") / "demo"
    questions: dict[str, list[Question]] = {}
    for language in DEMO_LANGUAGES:
        file = folder / f"{language}.jsonl"
        questions.update(by_language(_jsonl_questions(file.read_bytes(), f"demo/{language}.jsonl", language)))
    return questions


def _jsonl_questions(content: bytes, name: str, language: str) -> Iterator[Question]:
    """A question a line. As in NQ-open, `answer` may stand for answers, and id and language may be absent."""
    count = asked = 0
    for place, count, raw in json_rows(content, name):
        entry, fields = raw, None
        if isinstance(raw, dict):
            fields, entry = tuple(raw), lowered(raw, place)
            if is_unanswerable(entry):
                continue
            if is_absent(entry.get("answers")) and not entry.keys().isdisjoint(("choices", "options")):
                raise DataError(
                    f"data: {place} brings options; it has {field_names(fields)}; give the file as mc:{name}"
                )
            for key, names in (("id", IDS), ("context", _CONTEXTS), ("answers", ("answers", "answer"))):
                entry[key] = first_given(entry, names)[1]
            for key, value in (("id", str(count)), ("language", language)):
                entry[key] = value if is_absent(entry.get(key)) else entry[key]
        asked += 1
        yield read_entry(entry, place, context_required=False, fields=fields)
    if not asked:
        why = "has no question with an answer" if count else "is empty; it needs one JSON object a line"
        raise DataError(f"data: {name} {why}")


def _refuse_unknown(data: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    for language in wanted:
        if language not in known:
            raise DataError(f"data: {data} has no language {language!r}; {nearest(language, known)}")


def _from_hub(read: Callable[[Sequence[str] | None], dict[str, list[Question]]]) -> Reader:
    return lambda argument, wanted: read(wanted)


_READERS: dict[str, Reader] = {
    "tydiqa": _from_hub(hub.read_tydiqa),
    "xquad": _from_hub(hub.read_xquad),
    "mlqa": _from_hub(hub.read_mlqa),
    "belebele": _from_hub(hub.read_belebele),
    "squad": lambda argument, wanted: _read_squad(argument, wanted) if argument else hub.read_squad(wanted),
    "jsonl": _read_jsonl,
    "mc": _read_mc,
    "demo": _read_demo,
}
