"""The `mc:` reader: questions that bring their options, as MMLU, ARC, OpenBookQA and their like are stored.

JSON lines, JSON, CSV, tab-separated and Parquet, one file or a folder of them. `choice_rows` knows what the fields
are called, and `choice_answers` which option an answer means.
"""

from __future__ import annotations

import csv
import io
import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from anomia.errors import DataError, nearest
from anomia.files import parse_parquet
from anomia.items.choice_answers import READINGS, right_options
from anomia.items.choice_rows import ANSWERS, QUESTIONS, read_row
from anomia.items.entry import by_language, field_names, file_language, parse_json
from anomia.items.item import Question

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def split_answer(argument: str) -> tuple[str, str | None]:
    """The path and the reading of `PATH,answer=READING`. Only the end counts, so that paths may have commas.

    >>> split_answer("a,b.csv"), split_answer("a,b.csv,answer=index1")
    (('a,b.csv', None), ('a,b.csv', 'index1'))

    Raises:
        DataError: there is no such reading.
    """
    path, answer = argument, None
    if found := re.fullmatch(r"(.*),answer=([^,/\\]*)", argument, re.DOTALL):
        path, answer = found[1], found[2]
        if answer not in READINGS:
            raise DataError(f"answers can't be read as {answer!r}; {nearest(answer, READINGS)}")
    return path, answer


def read_choices(path: Path, *, answer: str | None = None) -> dict[str, list[Question]]:
    """Questions by language; the right option is gold and the others are its distractors.

    A row may name its `language`; else the file's name does (`mmlu_sw.csv`, `arc.german.jsonl`); else it is
    English.

    Args:
        path: a file, or a folder of them.
        answer: how answers are read (`label`, `letter`, `index`, `index1`, `text`); None takes what fits.

    Raises:
        DataError: a file or a row can't be read.
    """
    files = [path] if path.is_file() else _files_in(path)
    if not files:
        _refuse_empty(path)
    if files[0].suffix.lower() not in SUFFIXES:
        raise DataError(
            f"data: {path} has no ending that tells how it is written; known: {', '.join(SUFFIXES)}"
        )
    questions = [
        question
        for file in files
        for question in _file_questions(file, answer=answer, data=f"mc:{path}", shared_folder=len(files) > 1)
    ]
    return by_language(questions)


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES and file.is_file())


def _refuse_empty(path: Path) -> NoReturn:
    endings = ", ".join(SUFFIXES)
    if not path.is_dir():
        raise DataError(f"data: {path} does not exist; give a file that ends in {endings}")
    below = [folder for folder in sorted(path.glob("*")) if folder.is_dir() and _files_in(folder)]
    if below:
        others = f" (and {len(below) - 1} more)" if len(below) > 1 else ""
        raise DataError(
            f"data: the folder {path} has files only in its folders; give one of these: mc:{below[0]}{others}"
        )
    raise DataError(f"data: the folder {path} has no file that ends in {endings}")


def _file_questions(file: Path, *, answer: str | None, data: str, shared_folder: bool) -> Iterator[Question]:
    rows = [
        read_row(raw, f"{file}, row {number}", number) for number, raw in enumerate(_raw_rows(file), start=1)
    ]
    if not rows:
        raise DataError(f"data: {file} is empty")
    language = file_language(file) or "english"
    for row, right in zip(rows, right_options(rows, answer=answer, data=data), strict=True):
        wrong = [text for n, text in enumerate(row.options) if n != right]
        yield Question(
            # Files of one folder often number their questions alike.
            id=f"{file.stem}/{row.id}" if shared_folder else row.id,
            language=row.language or language,
            context=row.context,
            question=row.question,
            answers=(row.options[right],),
            distractors=tuple(dict.fromkeys(wrong)),
        )


def _raw_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    if file.suffix.lower() == ".parquet":
        try:
            frame = parse_parquet(file.read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"data: {file} is no Parquet file: {error}") from None
        yield from frame.iter_rows(named=True)
        return
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data: {file} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"data: {file} can't be read: {error.strerror}") from None
    delimiter = {".csv": ",", ".tsv": "\t"}.get(file.suffix.lower())
    yield from _json_rows(text, file) if delimiter is None else _table_rows(text, file, delimiter)


def _json_rows(text: str, file: Path) -> Iterator[Mapping[str, Any]]:
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(file))
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = [parse_json(line, f"{file}, line {number}") for number, line in lines if line.strip()]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"data: {file}, row {number} is not an object with question, options, answer")
        yield row


def _table_rows(text: str, file: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    """Rows by column; a file without a header is question, options, answer, as MMLU was first published."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if line]
    except csv.Error as error:
        raise DataError(f"data: {file} is no {file.suffix[1:].upper()} file: {error}") from None
    if not lines:
        return
    header = [name.strip() for name in lines[0]]
    named = {name.lower() for name in header}
    if named.isdisjoint(QUESTIONS):
        if len(header) < 4 or not named.isdisjoint(ANSWERS):
            raise DataError(
                f"data: {file} has no column 'question'; it has {field_names(header)}{_other_delimiter(header)}"
            )
        header = ["question", *string.ascii_uppercase[: len(header) - 2], "answer"]
    else:
        lines = lines[1:]
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise DataError(f"data: {file}, row {number} has {len(line)} columns, not {len(header)}")
        yield dict(zip(header, line, strict=True))


def _other_delimiter(header: list[str]) -> str:
    joined = "".join(header)
    if ";" in joined:
        return "; put commas between the columns, not semicolons"
    if "\t" in joined:
        return "; the columns of a .csv file have commas between them, those of a .tsv file tabs"
    return "; without a header a row is question, options, answer"
