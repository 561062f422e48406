"""The `mc:` reader: multiple-choice questions with their options, in the layouts of MMLU, ARC, OpenBookQA and others.

Reads JSON lines, JSON, CSV, TSV and Parquet, as one file or a folder of files. `choice_rows` maps field names, and
`choice_answers` decides which option an answer means.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from anomia.errors import DataError, nearest
from anomia.files import parse_parquet
from anomia.items.choice_answers import READINGS, right_options
from anomia.items.choice_rows import ANSWERS, QUESTIONS, read_row
from anomia.items.entry import by_language, field_names, file_language
from anomia.items.item import Question
from anomia.text_files import PlacedValue, json_rows, read_bytes, read_text, refuse_other_kinds, table

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def split_answer(argument: str) -> tuple[str, str | None]:
    """Split `PATH,answer=READING` into path and reading. Only the end is parsed, so paths may contain commas.

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
    """Read questions by language; the right option is gold and the others are distractors.

    The language is the row's `language`, or else the one in the file name (`mmlu_sw.csv`, `arc.german.jsonl`), or
    else English.

    Args:
        path: a file, or a folder of files.
        answer: how answers are read (`label`, `letter`, `index`, `index1`, `text`); None detects it.

    Raises:
        DataError: a file or a row can't be read.
    """
    files = [path] if path.is_file() else _files_in(path)
    if not files:
        _refuse_empty(path)
    if files[0].suffix.lower() not in SUFFIXES:
        raise DataError(f"data: {path} has no known file ending; known: {', '.join(SUFFIXES)}")
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
    rows = [read_row(raw.value, raw.place, raw.number) for raw in _raw_rows(file)]
    if not rows:
        raise DataError(f"data: {file} is empty")
    language = file_language(file) or "english"
    for row, right in zip(rows, right_options(rows, answer=answer, data=data), strict=True):
        wrong = [text for n, text in enumerate(row.options) if n != right]
        yield Question(
            # Files in one folder often use the same question numbers.
            id=f"{file.stem}/{row.id}" if shared_folder else row.id,
            language=row.language or language,
            context=row.context,
            question=row.question,
            answers=(row.options[right],),
            distractors=tuple(dict.fromkeys(wrong)),
        )


def _raw_rows(file: Path) -> Iterator[PlacedValue]:
    kind = file.suffix.lower()
    if kind == ".parquet":
        content = read_bytes(file)
        refuse_other_kinds(content, str(file), text=False)
        try:
            frame = parse_parquet(content)
        except ValueError as error:
            raise DataError(f"data: {file} is not a Parquet file: {error}") from None
        for number, values in enumerate(frame.iter_rows(named=True), start=1):
            yield PlacedValue(f"{file}, row {number}", number, values)
    elif kind in _DELIMITERS:
        yield from _table_rows(read_text(file), file, _DELIMITERS[kind])
    else:
        for row in json_rows(read_bytes(file), str(file)):
            if not isinstance(row.value, dict):
                raise DataError(f"data: {row.place} is not an object with question, options, answer")
            yield row


def _table_rows(text: str, file: Path, delimiter: str) -> Iterator[PlacedValue]:
    """Rows as dicts by column; without a header, columns are question, options, answer, as in MMLU's first release."""
    lines = table(text, str(file), delimiter=delimiter)
    if not lines:
        return
    header = [name.strip() for name in lines[0].cells]
    # Spreadsheets end lines with commas for empty columns.
    while not header[-1]:
        header.pop()
    named = {name.lower() for name in header}
    if named.isdisjoint(QUESTIONS):
        if len(header) < 4 or not named.isdisjoint(ANSWERS):
            raise DataError(
                f"data: {file} has no column 'question'; it has {field_names(header)}{_other_delimiter(header)}"
            )
        header = ["question", *string.ascii_uppercase[: len(header) - 2], "answer"]
    else:
        lines = lines[1:]
        twice = next((name for name in header if name and header.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"data: {file} has two columns {twice[:40]!r}; rename or remove one")
    for number, line in enumerate(lines, start=1):
        cells, more = line.cells[: len(header)], line.cells[len(header) :]
        place = f"{file}, line {line.number}"
        if len(cells) < len(header) or any(map(str.strip, more)):
            raise DataError(
                f"data: {place} has {len(line.cells)} cells, not {len(header)}; put a text that contains a "
                f"{'comma' if delimiter == ',' else 'tab'} in quotes"
            )
        yield PlacedValue(
            place, number, {name: cell for name, cell in zip(header, cells, strict=True) if name}
        )


def _other_delimiter(header: list[str]) -> str:
    joined = "".join(header)
    if ";" in joined:
        return "; put commas between the columns, not semicolons"
    if "\t" in joined:
        return "; the columns of a .csv file have commas between them, those of a .tsv file tabs"
    return "; without a header a row is question, options, answer"
