"""Rows of tasks: the shipped sample, a file in the hub's field names, or the hub itself."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from anomia.errors import DataError
from anomia.files import parse_parquet
from anomia.grade import Task, TaskGrade
from anomia.items.data_set import Reader, as_path
from anomia.items.entry import IDS, by_language, field_names, file_language, first_given, lowered
from anomia.items.hub import hub_rows
from anomia.items.item import Question
from anomia.items.languages import language_name
from anomia.text_files import (
    PlacedValue,
    as_text,
    decoded,
    is_absent,
    json_rows,
    parse_json,
    read_bytes,
    refuse_other_kinds,
)

WRONG_OPTIONS = 3
HUB = "hub"
SUFFIXES = (".jsonl", ".json", ".parquet")


class HubPlace(NamedTuple):
    """Where `TASK:hub` reads from; `TASK:hub:CONFIG` reads another configuration."""

    repository: str
    config: str | None
    split: str


class TaskRow(NamedTuple):
    """One row. place: for messages. number: from 1. fields: by name in lower case. language: the file's, or English."""

    place: str
    number: int
    fields: Mapping[str, Any]
    language: str
    file: Path | None = None

    @property
    def id(self) -> str:
        """The row's id, or its number."""
        name, value = first_given(self.fields, (*IDS, "task_id", "key"))
        found = as_text(value) if name else None
        return str(self.number) if found is None else found.strip()

    @property
    def own_language(self) -> str:
        """The row's language, or the file's."""
        named = self.fields.get("language")
        return language_name(named) if isinstance(named, str) and named.strip() else self.language

    def text(self, *names: str) -> str:
        """The first of these fields that has a value.

        Raises:
            DataError: none has one, or it is not a text.
        """
        found = self.optional(*names)
        if not found:
            raise DataError(
                f"data: {self.place} has no {names[0]!r}; it has {field_names(self.fields)}; "
                f"a row of this task needs {' or '.join(map(repr, names))}"
            )
        return found

    def optional(self, *names: str) -> str:
        """The same; empty if none has a value."""
        name, value = first_given(self.fields, names)
        found = as_text(value) if name else ""
        if found is None:
            raise DataError(f"data: {self.place}: {name!r} is not a text; put it into quotes")
        return found

    def texts(self, *names: str) -> tuple[str, ...]:
        """The texts of a list; a single text is a list of one, and a missing field an empty list."""
        name, value = first_given(self.fields, names)
        listed = value if isinstance(value, list) else [value] if name else []
        found = [as_text(each) for each in listed]
        if None in found:
            raise DataError(f"data: {self.place}: {name!r} is not a list of texts; put each into quotes")
        return tuple(dict.fromkeys(text for text in found if text and not is_absent(text)))


ReadRow = Callable[[TaskRow], Question | None]
"""Turns a row into a question; None leaves it out."""


def task_reader(
    name: str,
    read_row: ReadRow,
    hub: HubPlace | None = None,
    *,
    rows: Callable[[TaskRow], Iterable[TaskRow]] = lambda row: (row,),
) -> Reader:
    """Make the reader of a task: no argument reads the sample, `hub` the hub, anything else is a file.

    hub: None if the task can't be read from the hub. rows: the rows that a row of a file holds.
    """

    def read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
        each = (row for whole in _rows(name, argument, hub) for row in rows(whole))
        found = by_language(question for row in each if (question := read_row(row)) is not None)
        if not found:
            raise DataError(f"data: {name}:{argument} has no row that this task can use")
        return found

    return read


def _rows(name: str, argument: str, hub: HubPlace | None) -> Iterator[TaskRow]:
    if not argument:
        file = f"{name}.jsonl"
        content = (resources.files("anomia.items") / "samples" / file).read_bytes()
        yield from _of_json(content, file, "english", None)
    elif argument.partition(":")[0] == HUB:
        if hub is None:
            raise DataError(f"data: {name} is not read from the hub; give a file, as in {name}:FILE.jsonl")
        config = argument.partition(":")[2] or hub.config
        for number, row in enumerate(hub_rows(hub.repository, config, hub.split), start=1):
            place = f"{hub.repository}[{number - 1}]"
            yield TaskRow(place, number, lowered(_without_filling(row), place), "english")
    else:
        yield from _of_file(as_path(argument))


def _of_file(path: Path) -> Iterator[TaskRow]:
    if not path.is_file():
        raise DataError(f"data: {path} does not exist; give a file that ends in {', '.join(SUFFIXES)}")
    language = file_language(path) or "english"
    content = read_bytes(path)
    if path.suffix.lower() != ".parquet":
        yield from _of_json(content, str(path), language, path)
        return
    refuse_other_kinds(content, str(path), text=False)
    try:
        frame = parse_parquet(content)
    except ValueError as error:
        raise DataError(f"data: {path} is not a Parquet file: {error}") from None
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        place = f"{path}, row {number}"
        yield TaskRow(place, number, lowered(_without_filling(row), place), language, path)


def _without_filling(value: Any) -> Any:
    """A value of a table without the nulls that fill its objects: those of a column have the keys of all its rows."""
    if isinstance(value, dict):
        return {key: _without_filling(each) for key, each in value.items() if each is not None}
    return [_without_filling(each) for each in value] if isinstance(value, list) else value


def _of_json(content: bytes, name: str, language: str, path: Path | None) -> Iterator[TaskRow]:
    for place, number, raw in _values(content, name):
        if not isinstance(raw, dict):
            raise DataError(f"data: {place} is not an object")
        yield TaskRow(place, number, lowered(raw, place), language, path)


def _values(content: bytes, name: str) -> Iterator[PlacedValue]:
    """The values of JSON lines or of an array, or one object that is spread over lines."""
    try:
        yield from list(json_rows(content, name))
    except DataError as error:
        if not name.endswith(".json"):
            raise
        try:
            yield PlacedValue(name, 1, parse_json(decoded(content, name), name))
        except DataError:
            raise error from None


def packed(value: Any) -> str:
    """A value as compact JSON with sorted keys: what `Question.target` holds.

    >>> packed({"b": 1, "a": [True, None]})
    '{"a":[true,null],"b":1}'
    """
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def draw_for(question: Question, name: str) -> random.Random:
    """A generator that depends only on the question's content: the same in every run, order and subset."""
    content = packed([name, question.context, question.question, question.answers, question.target])
    return random.Random(hashlib.sha256(content.encode()).hexdigest())


def first_wrong(
    candidates: Iterable[str], question: Question, task: Task, *, wanted: int = WRONG_OPTIONS
) -> tuple[str, ...]:
    """The first different candidates that the task's own grader marks wrong, `wanted` or fewer."""
    found: list[str] = []
    for text in candidates:
        if len(found) == wanted:
            break
        if text not in (*found, *question.answers) and is_wrong(task.grade(text, question), task):
            found.append(text)
    return tuple(found)


def is_wrong(graded: TaskGrade, task: Task) -> bool:
    """Whether an answer is wrong, or, where there is no right and wrong, scores less than the reference would."""
    return not graded.correct if task.right_or_wrong else graded.score < 1
