"""Sources of calibration text: from a name to passages in a fixed order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from anomia.compress.answers import (
    ANSWERS,
    CONTROL_ANSWERS,
    AnswerTokens,
    is_answer,
    is_of_answers,
    read_answer,
)
from anomia.compress.options import TextOptions
from anomia.errors import DataError, StudyError, nearest
from anomia.items.entry import field_names
from anomia.items.languages import language_code, language_name
from anomia.text_files import as_text, json_rows, read_bytes, read_text

SOURCES = ("c4", "demo", "balanced", "own", ANSWERS, CONTROL_ANSWERS, "wikipedia:LANGUAGE", "file:PATH")
PASSAGES = 128
PASSAGES_A_LANGUAGE = 64
WIKIPEDIA_SNAPSHOT = "20231101"


class Passage(NamedTuple):
    """A passage and its language (`""` if the source doesn't give one). tokens: those of a prompt with its answer."""

    text: str
    language: str
    tokens: AnswerTokens | None = None


class Source(NamedTuple):
    """An opened source. asked: number of requested passages per stream; `None` takes all."""

    streams: tuple[Iterable[Passage], ...]
    asked: int | None


def check_source(source: str) -> str:
    """Return a valid source name, else raise `StudyError`. Opens nothing; only checks that a file exists."""
    kind, _, argument = source.partition(":")
    if kind == "file" and argument and not Path(argument).is_file():
        raise StudyError(f"calibration={source}: {argument} does not exist")
    bare = source in ("c4", "demo", "balanced", "own", ANSWERS, CONTROL_ANSWERS)
    if not bare and not (kind in ("file", "wikipedia", ANSWERS, CONTROL_ANSWERS) and argument):
        raise StudyError(f"unknown calibration source {source!r}; {nearest(source, SOURCES)}")
    return source


def read_mix(mix: str) -> tuple[str, float]:
    """Return the second source of a mixture and its share of the tokens; raise `StudyError` if it isn't that.

    >>> read_mix("c4=0.25")
    ('c4', 0.25)
    """
    source, _, share = mix.rpartition("=")
    try:
        part = float(share)
    except ValueError:
        part = math.nan
    if not source or not 0 < part < 1:
        raise StudyError(
            f"calibration-mix={mix}: write SOURCE=SHARE with a share between 0 and 1, such as c4=0.25"
        )
    return check_source(source), part


def open_source(text: TextOptions) -> Source:
    """Open a source: lazy passages, one stream per language.

    Raises `StudyError` for an unknown source, or one that needs languages and has none. Reading the streams may raise
    `DataError`.
    """
    source, samples, data_dir = text.source, text.samples, text.data_dir
    kind, _, argument = source.partition(":")
    if kind == "file" and argument:
        return Source((read_passages(Path(argument)),), samples or PASSAGES)
    if kind == "wikipedia" and argument:
        return Source((_wikipedia(language_name(argument), data_dir),), samples or PASSAGES)
    if is_of_answers(source):
        if source not in text.answers:
            raise StudyError(
                f"calibration={source} takes base's answers to other questions of a study (anomia run); for a "
                "model alone, write them with anomia answers and give file:PATH"
            )
        return Source((read_passages(text.answers[source]),), None)
    if source == "c4":
        return Source((_c4(data_dir),), samples or PASSAGES)
    if source == "demo":
        return Source((_demo(text.languages),), samples)
    if source == "balanced":
        if not text.languages:
            raise StudyError(
                "calibration=balanced needs the study's languages, and none are given: name them (--languages)"
            )
        streams = tuple(_wikipedia(language_name(name), data_dir) for name in text.languages)
        return Source(streams, samples or PASSAGES_A_LANGUAGE)
    if source == "own":
        if text.language is None:
            raise StudyError("calibration=own makes one mask per language; name the language")
        return Source((_wikipedia(language_name(text.language), data_dir),), samples or PASSAGES_A_LANGUAGE)
    raise StudyError(f"unknown calibration source {source!r}; {nearest(source, SOURCES)}")


class Taken(NamedTuple):
    """The passages of a source, and how many were refused, are missing, and had no text."""

    passages: list[Passage]
    refused: int
    missing: int
    empty: int


def take(source: Source, keep: Callable[[str], bool]) -> Taken:
    """Return the first kept passages, taking the streams in turn."""
    chosen: list[list[Passage]] = []
    refused = missing = empty = 0
    for stream in source.streams:
        mine: list[Passage] = []
        for passage in stream:
            if source.asked is not None and len(mine) == source.asked:
                break
            if not passage.text.strip():
                empty += 1
                continue
            if keep(passage.text):
                mine.append(passage)
            else:
                refused += 1
        missing += 0 if source.asked is None else source.asked - len(mine)
        chosen.append(mine)
    # Take the streams in turn, so that languages stay balanced if a token budget cuts off the list.
    passages = [passage for turn in zip_longest(*chosen) for passage in turn if passage is not None]
    return Taken(passages, refused, missing, empty)


def read_json_lines(content: bytes, name: str, language: str) -> Iterator[Passage]:
    """Yield the field `text` of JSON lines, null as an empty text, with the tokens of answers.

    Raises `DataError` with the line number.
    """
    for place, _, entry in json_rows(content, name, about="calibration text"):
        if not isinstance(entry, dict) or "text" not in entry:
            has = f"; it has {field_names(entry)}" if isinstance(entry, dict) else ""
            raise DataError(f'calibration text: {place}: no field "text" with the passage{has}')
        text = "" if entry["text"] is None else as_text(entry["text"])
        if text is None:
            raise DataError(f'calibration text: {place}: "text" is not a text; put it into quotes')
        if is_answer(entry):
            named = entry.get("language")
            yield Passage(text, named if isinstance(named, str) else language, read_answer(entry, place))
        else:
            yield Passage(text, language)


def read_passages(path: Path, language: str = "") -> Iterator[Passage]:
    """Yield the passages of a file: JSON lines with a field `text`, or plain text with blank lines between passages.

    Raises `DataError` for a file that can't be read.
    """
    if not path.is_file():
        raise DataError(f"calibration text {path} doesn't exist; give a .jsonl or plain text file")
    if path.suffix.lower() in (".jsonl", ".json"):
        yield from read_json_lines(read_bytes(path, about="calibration text"), str(path), language)
        return
    if path.suffix.lower() in (".csv", ".tsv"):
        raise DataError(
            f"calibration text {path} is a table; write its passages as JSON lines (.jsonl), each in a field text"
        )
    content = read_text(path, about="calibration text")
    if "\r" in content and "\n" not in content:
        raise DataError(
            f"calibration text: {path} has lines that end in \\r alone; save the file with line endings \\n"
        )
    for document in re.split(r"\n\s*\n", content):
        if document.strip():
            yield Passage(document.strip(), language)


def _c4(data_dir: Path | None) -> Iterator[Passage]:
    local = data_dir / "c4.en.jsonl" if data_dir is not None else None
    if local is not None and local.exists():
        yield from read_passages(local, "english")
        return
    remedy = "calibration=file:PATH takes a local copy of C4, calibration=demo the shipped passages"
    for row in _hub_rows("allenai/c4", "en", "train", remedy):
        yield Passage(row["text"], "english")


def _wikipedia(language: str, data_dir: Path | None) -> Iterator[Passage]:
    local = data_dir / "wikipedia" / f"{language}.jsonl" if data_dir is not None else None
    if local is not None and local.exists():
        yield from read_passages(local, language)
        return
    remedy = "calibration=file:PATH takes local text"
    code = language_code(language) or language
    for row in _hub_rows("wikimedia/wikipedia", f"{WIKIPEDIA_SNAPSHOT}.{code}", "train", remedy):
        yield Passage(row["text"], language)


def _demo(languages: Sequence[str]) -> Iterator[Passage]:
    folder = resources.files("anomia.items") / "demo" / "calibration"
    for name in dict.fromkeys(["english", *map(language_name, languages)]):
        file = folder / f"{name}.jsonl"
        if file.is_file():
            yield from read_json_lines(file.read_bytes(), f"demo/{name}.jsonl", name)


def _hub_rows(repository: str, config: str, split: str, remedy: str) -> Iterator[dict[str, Any]]:
    import datasets

    try:
        yield from datasets.load_dataset(repository, config, split=split, streaming=True)
    except Exception as error:
        # `datasets` raises unrelated exception types for a missing network, a wrong name and a broken file.
        raise DataError(
            f"calibration text {repository} ({config}) can't be read from the hub: "
            f"{' '.join(str(error).split())}; {remedy}"
        ) from error
