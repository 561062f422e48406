"""Read questions by language from `tydiqa`, `squad:FOLDER` and so on. `anomia.items.sets` has the data sets.

A reader refuses what it can't use (no answer, no id, no passage, a repeated id) with one message that names the
place. It never repairs data silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from anomia.errors import DataError, nearest
from anomia.items.data_set import as_path, refuse_unknown
from anomia.items.entry import refuse_repeated_ids
from anomia.items.item import Question
from anomia.items.languages import language_name
from anomia.items.sets import SETS


def read_questions(data: str, languages: Sequence[str] | None = None) -> dict[str, list[Question]]:
    """Read a data set.

    Args:
        data: a name in `SETS`, such as `tydiqa` or `demo`; or a file or folder as `squad:PATH`, `mc:PATH` (with
            `,answer=READING` if answers are ambiguous) or `jsonl:PATH`.
        languages: names or codes; None reads all languages of the data set.

    Returns:
        Questions by language name, in the data set's order.

    Raises:
        DataError: the data set, a language or an item can't be used.
    """
    try:
        name, _, argument = check_data(data).partition(":")
    except DataError as error:
        raise DataError(f"data: {error}") from None
    reader = SETS[name].read
    wanted = None if languages is None else [language_name(language) for language in languages]
    try:
        questions = reader(argument, wanted)
    except OSError as error:
        raise DataError(f"data: {data[:200]} can't be read: {error.strerror or error}") from None
    if wanted is None:
        wanted = sorted(questions)
    refuse_unknown(data, wanted, questions)
    for language in wanted:
        refuse_repeated_ids(questions[language], f"{data}, {language}")
    return {language: questions[language] for language in wanted}


def check_data(data: str) -> str:
    """Check the name of a data set and whether it has a path, without reading it; return it unchanged.

    Raises:
        DataError: the name is unknown, or a path is missing or not allowed. The message doesn't mention `data`,
            because the list of a study's faults puts the key in front of it.
    """
    name, colon, argument = data.partition(":")
    if name not in SETS:
        _refuse_name(data)
    path = SETS[name].path
    if path == "no" and argument:
        raise DataError(f"{name!r} takes no argument, {data!r} has one; write {name!r}")
    if path != "no" and not SETS[name].check(argument) and (colon or path == "needed"):
        raise DataError(f"{name!r} needs a path, as in {name}:questions.jsonl")
    return data


def _refuse_name(data: str) -> NoReturn:
    path = as_path(data)
    try:
        kind = "folder" if path.is_dir() else "file" if path.is_file() else ""
    except (OSError, ValueError):
        kind = ""
    ending = "" if kind == "folder" else path.suffix.lower()
    fitting = [each for each in SETS.values() if ending in each.endings and each.task is None]
    if (kind or (ending and ":" not in data)) and fitting:
        remedies = " or ".join(f"{each.name}:{data} ({each.holds})" for each in fitting)
        raise DataError(f"{data!r} is a path; say how to read it: {remedies}")
    raise DataError(f"unknown data set {data!r}; {nearest(data.partition(':')[0], SETS)}")
