"""Readers of data sets: from `tydiqa`, `squad:FOLDER` and the like to questions, by language.

A reader refuses what can't be used (no answer, no id, no passage, an id given twice) with one
message that names the place; it never repairs in silence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from anomia.errors import DataError, nearest
from anomia.grade import normalize
from anomia.items.item import Question
from anomia.items.languages import language_code, language_name

TYDIQA_LANGUAGES = (
    "arabic", "bengali", "english", "finnish", "indonesian", "korean", "russian", "swahili", "telugu",
)  # fmt: skip
XQUAD_LANGUAGES = (
    "arabic", "chinese", "english", "german", "greek", "hindi", "romanian", "russian", "spanish", "thai",
    "turkish", "vietnamese",
)  # fmt: skip
DEMO_LANGUAGES = TYDIQA_LANGUAGES
LANGUAGES_OF = {"tydiqa": TYDIQA_LANGUAGES, "xquad": XQUAD_LANGUAGES, "demo": DEMO_LANGUAGES}


def read_questions(data: str, languages: Sequence[str] | None = None) -> dict[str, list[Question]]:
    """Reads a data set.

    Args:
        data: `tydiqa`, `xquad`, `squad:FILE_OR_FOLDER`, `jsonl:FILE` or `demo`.
        languages: names or codes; None takes all that the data set has.

    Returns:
        Questions by language name, in the data set's own order.

    Raises:
        DataError: the data set, a language or an item can't be used.
    """
    name, _, argument = check_data(data).partition(":")
    reader = _READERS[name]
    wanted = None if languages is None else [language_name(language) for language in languages]
    questions = reader(argument, wanted)
    if wanted is None:
        wanted = sorted(questions)
    _refuse_unknown(data, wanted, questions)
    for language in wanted:
        _refuse_repeated_ids(questions[language], f"{data}, {language}")
    return {language: questions[language] for language in wanted}


def check_data(data: str) -> str:
    """Returns the name of a data set if it is one, without reading it.

    Raises:
        DataError: it is unknown, or lacks its path.
    """
    name, _, argument = data.partition(":")
    if name not in _READERS:
        raise DataError(f"data: unknown data set {data!r}; {nearest(name, _READERS)}")
    if name in ("squad", "jsonl") and not argument:
        raise DataError(f"data: {name!r} needs a path, as in {name}:questions.json")
    if name not in ("squad", "jsonl") and argument:
        raise DataError(f"data: {name!r} takes no argument, {data!r} has one; write {name!r}")
    return data


def _read_squad(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    path = Path(argument)
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
    by_language: dict[str, Path] = {}
    for file in files:
        language = _file_language(file)
        if language in by_language:
            raise DataError(
                f"data: {by_language[language].name} and {file.name} in {path} are both {language}; "
                "a folder has one file a language"
            )
        by_language[language] = file
    _refuse_unknown(f"squad:{path}", wanted or (), by_language)
    selected = by_language if wanted is None else {k: v for k, v in by_language.items() if k in wanted}
    return {language: list(_squad_questions(file, language)) for language, file in selected.items()}


def _file_language(file: Path) -> str:
    """`swahili.json`, `xquad.sw.json` and `dev-sw.json` are all Swahili."""
    parts = file.stem.replace("-", ".").replace("_", ".").split(".")
    known = [part for part in reversed(parts) if language_code(part)]
    return language_name(known[0] if known else file.stem)


def _squad_questions(file: Path, language: str) -> Iterator[Question]:
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        if not isinstance(articles, list):
            raise TypeError
    except UnicodeDecodeError as error:
        raise DataError(f"data: {file} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"data: {file} is not JSON (line {error.lineno}: {error.msg})") from None
    except (KeyError, TypeError):
        raise DataError(f"data: {file} is not in SQuAD format: it has no list under 'data'") from None
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{file}: data[{a}]")):
            place = f"{file}: data[{a}].paragraphs[{p}]"
            for q, entry in enumerate(_list(paragraph, "qas", place)):
                if isinstance(entry, dict) and entry.get("is_impossible") is True:
                    continue
                answers = _list(entry, "answers", f"{place}.qas[{q}]")
                texts = [answer.get("text") if isinstance(answer, dict) else None for answer in answers]
                yield _question(
                    {
                        "id": entry.get("id"),
                        "language": language,
                        "context": paragraph.get("context"),
                        "question": entry.get("question"),
                        "answers": texts,
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
    path = Path(argument)
    if not path.is_file():
        raise DataError(f"data: {path} does not exist; give a JSON-lines file")
    return _by_language(_jsonl_questions(path.read_bytes(), str(path)))


def _read_demo(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    folder = resources.files("anomia.items") / "demo"
    questions: dict[str, list[Question]] = {}
    for language in DEMO_LANGUAGES:
        file = folder / f"{language}.jsonl"
        questions.update(_by_language(_jsonl_questions(file.read_bytes(), f"demo/{language}.jsonl")))
    return questions


def _by_language(questions: Iterable[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.language, []).append(question)
    return found


def _jsonl_questions(content: bytes, name: str) -> Iterator[Question]:
    empty = True
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        empty = False
        place = f"{name}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise DataError(f"data: {place} is not JSON; each line is one object") from None
        yield _question(entry, place, context_required=False)
    if empty:
        raise DataError(f"data: {name} is empty; it needs one JSON object a line")


def _question(entry: Any, place: str, *, context_required: bool) -> Question:
    if not isinstance(entry, dict):
        raise DataError(f"data: {place} is not an object with id, language, context, question, answers")
    item_id = entry.get("id")
    if not isinstance(item_id, (str, int)) or isinstance(item_id, bool) or str(item_id).strip() == "":
        raise DataError(f"data: {place} has no id; give every question one of its own")
    place = f"{place} (id {item_id})"
    for key in ("language", "question"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise DataError(f"data: {place} has no {key}")
    context = entry.get("context") if context_required else entry.get("context", "") or ""
    if not isinstance(context, str) or (context_required and not context.strip()):
        raise DataError(f"data: {place} has no passage ('context')")
    answers = _texts(entry.get("answers"), "answers", place)
    if not answers:
        raise DataError(f"data: {place} has no answer; give at least one text in 'answers'")
    _refuse_bad_distractors(entry, answers, place)
    return Question(
        id=str(item_id),
        language=language_name(entry["language"]),
        context=context,
        question=entry["question"].strip(),
        answers=answers,
        distractors=_texts(entry.get("distractors", []), "distractors", place),
        passage_distractors=_texts(entry.get("passage_distractors", []), "passage_distractors", place),
    )


def _refuse_bad_distractors(entry: dict[str, Any], answers: Sequence[str], place: str) -> None:
    own = {normalize(answer) for answer in answers}
    for key in ("distractors", "passage_distractors"):
        texts = _texts(entry.get(key, []), key, place)
        forms = {normalize(text) for text in texts}
        if texts and len(forms) < 3:
            raise DataError(f"data: {place}: {key!r} has {len(forms)} different texts; give three, or none")
        if forms & own:
            raise DataError(f"data: {place}: {key!r} holds an answer; every distractor must be wrong")


def _texts(value: Any, key: str, place: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"data: {place}: {key!r} is not a list of texts")
    return tuple(dict.fromkeys(text.strip() for text in value if text.strip()))


def _refuse_unknown(data: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    for language in wanted:
        if language not in known:
            raise DataError(f"data: {data} has no language {language!r}; {nearest(language, known)}")


def _refuse_repeated_ids(questions: Iterable[Question], place: str) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(f"data: {place}: two questions have the id {question.id!r}; ids must differ")
        seen.add(question.id)


def _read_tydiqa(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    rows = _hub_rows("google-research-datasets/tydiqa", "secondary_task", "validation")
    return _by_language(
        _question(
            {**_hub_entry(row), "language": row["id"].partition("-")[0]},
            f"tydiqa[{n}]",
            context_required=True,
        )
        for n, row in enumerate(rows)
    )


def _read_xquad(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    _refuse_unknown("xquad", wanted or (), XQUAD_LANGUAGES)
    questions: dict[str, list[Question]] = {}
    for language in XQUAD_LANGUAGES if wanted is None else wanted:
        rows = _hub_rows("google/xquad", f"xquad.{language_code(language)}", "validation")
        questions[language] = [
            _question(
                {**_hub_entry(row), "language": language}, f"xquad.{language}[{n}]", context_required=True
            )
            for n, row in enumerate(rows)
        ]
    return questions


def _hub_entry(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "context": row["context"],
        "question": row["question"],
        "answers": list(row["answers"]["text"]),
    }


def _hub_rows(repository: str, config: str, split: str) -> Iterable[dict[str, Any]]:
    import datasets

    try:
        rows: Iterable[dict[str, Any]] = datasets.load_dataset(repository, config, split=split)
    except Exception as error:  # the hub client raises a dozen unrelated types for "can't be reached"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"data: {repository} ({config}) can't be had from the Hugging Face hub: {reason}. "
            "Check the connection, or give local files as squad:FOLDER or jsonl:FILE"
        ) from None
    return rows


_READERS: dict[str, Callable[[str, Sequence[str] | None], dict[str, list[Question]]]] = {
    "tydiqa": _read_tydiqa,
    "xquad": _read_xquad,
    "squad": _read_squad,
    "jsonl": _read_jsonl,
    "demo": _read_demo,
}
