"""The description of a data set. Each file of `anomia.items.sets` defines one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anomia.errors import DataError, nearest
from anomia.grade import Task
from anomia.items.item import Question
from anomia.items.languages import language_name

Reader = Callable[[str, Sequence[str] | None], dict[str, list[Question]]]
"""Takes the text after `NAME:` and the requested languages (None: all); returns questions by language."""
Edited = Callable[[str, Question, random.Random], tuple[str, Iterable[str]]]
"""Takes a model's output, the question, and a generator that decides everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set, or a file format for questions.

    name: its name in studies. title: its makers' name for it. read: reads its questions.
    path: whether a path follows the name. check: validates the options after the path and returns the path alone.
    endings: file endings, "" for a folder. holds: what its files contain, for messages.
    repository, split: its place on the Hugging Face hub; empty if it isn't read from there.
    languages: the data set's code of each language name; None if the files decide.
    more_languages: whether codes outside `languages` are accepted too.
    folders: folders of local copies (SQuAD JSON, one file per language) inside a study's data folder.
    questions: number of questions by language, for plans. otherwise: the number for all other languages.
    hub_rows: for plans, the rows of a task's `NAME:hub`; 0 if it isn't read from there.
    options: whether wrong options are drawn from other questions, brought by the data set, or either.
    parallel: whether translations of a question share its id, so that `anomia.measure.passages` can join passages.
    task: how its answers are graded, if a study names no other grader. wrong: makes the wrong options of a question
    that brings none; called for the questions of the subset alone. It returns fewer than two texts if it can't.
    own: the part of an output that the task grades, and versions of it with one error each, from which options are made
    after base was asked (`anomia.items.own`); None if the task has no such options.
    settings: values of a study's keys that replace the defaults for this data set.
    runs_code: whether grading runs programs that models write, which a study must allow.
    probes: the only probes that it can be asked; empty for all.
    licence, citation: of the questions.
    """

    name: str
    title: str
    read: Reader
    path: Literal["no", "optional", "needed"] = "no"
    check: Callable[[str], str] = str
    endings: tuple[str, ...] = ()
    holds: str = ""
    repository: str = ""
    split: str = ""
    languages: Mapping[str, str] | None = None
    more_languages: bool = False
    folders: tuple[str, ...] = ()
    questions: Mapping[str, int] = field(default_factory=dict)
    otherwise: int = 1189
    hub_rows: int = 0
    options: Literal["drawn", "brought", "either"] = "drawn"
    parallel: bool = False
    task: Task | None = None
    wrong: Callable[[Question], tuple[str, ...]] | None = None
    own: Edited | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs_code: bool = False
    probes: tuple[str, ...] = ()
    licence: str = ""
    citation: str = ""

    @property
    def only_languages(self) -> tuple[str, ...] | None:
        """All languages of the data set; None if it may have others."""
        return None if self.languages is None or self.more_languages else tuple(self.languages)


def by_code(*codes: str) -> dict[str, str]:
    """Language names mapped to the given two-letter codes, sorted by name."""
    return dict(sorted((language_name(code), code) for code in codes))


def as_path(text: str) -> Path:
    """A path with a leading `~` expanded."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # `~user` of an unknown user
        return Path(text)


def refuse_unknown(data: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse languages that a data set doesn't have.

    Raises:
        DataError: a language is unknown; the message suggests the nearest one.
    """
    for language in wanted:
        if language not in known:
            raise DataError(f"data: {data} has no language {language!r}; {nearest(language, known)}")
