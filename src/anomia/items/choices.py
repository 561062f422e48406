"""The `mc:` reader: questions that bring their options, as MMLU, ARC, OpenBookQA and their like are stored.

JSON lines, JSON, CSV and Parquet, one file or a folder of them. What a row may be called:

    question   question, question_stem, or question.stem; passage (optional): context, passage, support
    options    choices or options: a list, {"text": […], "label": […]} or a list of {"text", "label"};
               or a column each: A, B, C, … or option_a, option1, choice1, mc_answer1, …
    answer     answerKey, answer, correct_answer_num (from 1), answer_index, label

An answer may be a label, a letter, an index from 0 or the text itself: the first of these that fits every
row of the file is how the file is read, so that no row is read in another way than its neighbours.
"""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomia.errors import DataError
from anomia.files import parse_parquet
from anomia.items.entry import MOST_DISTRACTORS, by_language, file_language, parse_json
from anomia.items.item import Question
from anomia.items.languages import language_name

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_ANSWERS = ("answerKey", "answer", "correct_answer_num", "answer_index", "label")
_COLUMNS = ("", "option_", "option", "choice_", "choice", "mc_answer")


class _Row(NamedTuple):
    """One question as the file gives it. from_one: its answer counts from 1."""

    place: str
    id: str
    language: str | None
    context: str
    question: str
    options: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str | int
    from_one: bool


def read_choices(path: Path) -> dict[str, list[Question]]:
    """Questions by language; the right option is gold and the others are its distractors.

    A row may name its `language`; else the file's name does (`mmlu_sw.csv`, `arc.german.jsonl`); else it is
    English.

    Raises:
        DataError: a file or a row can't be read.
    """
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix in SUFFIXES)
    if not files:
        missing = f"the folder {path} has no file" if path.is_dir() else f"{path} does not exist; give a file"
        raise DataError(f"data: {missing} that ends in {', '.join(SUFFIXES)}")
    questions = [
        question for file in files for question in _file_questions(file, shared_folder=len(files) > 1)
    ]
    return by_language(questions)


def _file_questions(file: Path, *, shared_folder: bool) -> Iterator[Question]:
    rows = [_row(raw, f"{file}, row {number}", number) for number, raw in enumerate(_raw_rows(file), start=1)]
    if not rows:
        raise DataError(f"data: {file} is empty")
    language = file_language(file) or "english"
    for row, right in zip(rows, _right_options(rows), strict=True):
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
    if file.suffix == ".parquet":
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
    yield from _csv_rows(text, file) if file.suffix == ".csv" else _json_rows(text, file)


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


def _csv_rows(text: str, file: Path) -> Iterator[Mapping[str, Any]]:
    """Rows by column; a file without a header is question, options, answer, as MMLU was first published."""
    try:
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except csv.Error as error:
        raise DataError(f"data: {file} is no CSV file: {error}") from None
    if not lines:
        return
    header = [name.strip() for name in lines[0]]
    if not {"question", "question_stem"} & {name.lower() for name in header}:
        if len(header) < 4:
            raise DataError(
                f"data: {file} has no column 'question', and too few for question, options, answer"
            )
        header = ["question", *string.ascii_uppercase[: len(header) - 2], "answer"]
    else:
        lines = lines[1:]
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise DataError(f"data: {file}, row {number} has {len(line)} columns, not {len(header)}")
        yield dict(zip(header, line, strict=True))


def _row(raw: Mapping[str, Any], place: str, number: int) -> _Row:
    given = {key: raw[key] for key in ("id", "question_id", "qid") if raw.get(key) not in (None, "")}
    row_id = str(next(iter(given.values()), number))
    question = raw.get("question", raw.get("question_stem", raw.get("Question")))
    source: Mapping[str, Any] = raw
    if isinstance(question, Mapping):
        source, question = {**raw, **question}, question.get("stem")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"data: {place} has no question")
    options, labels = _options(source, place)
    key = next((name for name in _ANSWERS if raw.get(name) not in (None, "")), None)
    answer = None if key is None else raw[key]
    if isinstance(answer, bool) or not isinstance(answer, str | int):
        raise DataError(f"data: {place} has no answer; give a label, a letter, an index from 0 or the text")
    context = next((raw[name] for name in ("context", "passage", "support") if raw.get(name)), "")
    language = raw.get("language")
    if not isinstance(context, str) or not isinstance(language, str | None):
        raise DataError(f"data: {place}: 'context' and 'language' are texts")
    return _Row(
        place,
        row_id,
        language_name(language) if language else None,
        context,
        question.strip(),
        options,
        labels,
        answer.strip() if isinstance(answer, str) else answer,
        key == "correct_answer_num",
    )


def _options(source: Mapping[str, Any], place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of the options and their labels; no label where the file has none."""
    found = source.get("choices", source.get("options"))
    if isinstance(found, str) and found.lstrip().startswith(("[", "{")):
        found = parse_json(found, f"{place}: its list of options")
    labels: Sequence[Any] = ()
    if isinstance(found, Mapping):
        labels = found.get("label") or ()
        found = found.get("text")
    elif isinstance(found, list) and found and all(isinstance(option, Mapping) for option in found):
        labels = [option.get("label") for option in found if option.get("label") is not None]
        found = [option.get("text") for option in found]
    elif found is None:
        found = _option_columns(source)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(f"data: {place} has no options; give a list of texts in 'options'")
    texts = tuple(text.strip() for text in found)
    if not all(texts) or not 2 <= len(texts) <= MOST_DISTRACTORS + 1:
        raise DataError(
            f"data: {place} has {len([t for t in texts if t])} options that say something; 2 to 26 can be asked"
        )
    if not isinstance(labels, list | tuple):
        raise DataError(f"data: {place} has labels that are no list; give as many labels as options")
    if labels and len(labels) != len(texts):
        raise DataError(f"data: {place} has {len(texts)} options and {len(labels)} labels")
    return texts, tuple(str(label).strip() for label in labels)


def _option_columns(source: Mapping[str, Any]) -> list[str] | None:
    """Options in columns of their own, up to the first that is empty."""
    lowered = {key.lower(): value for key, value in source.items()}
    for prefix in _COLUMNS:
        for names in (string.ascii_lowercase, [str(number) for number in range(1, 27)]):
            found = []
            for name in names:
                value = lowered.get(prefix + name)
                if not isinstance(value, str) or not value.strip():
                    break
                found.append(value)
            if len(found) >= 2:
                return found
    return None


def _right_options(rows: Sequence[_Row]) -> list[int]:
    """The place of the right option in each row, read in the one way that fits them all."""
    stuck: _Row | None = None
    for reading in _READINGS:
        places = [reading(row) for row in rows]
        if None not in places:
            return [place for place in places if place is not None]
        stuck = stuck or next((row for row in rows if all(other(row) is None for other in _READINGS)), None)
    if stuck is None:
        raise DataError(
            f"data: {rows[0].place}: the answers of this file are of several kinds; give labels, letters, indices "
            "from 0 or texts throughout"
        )
    raise DataError(
        f"data: {stuck.place}: the answer {stuck.answer!r} is none of its {len(stuck.options)} options: neither a label, "
        "a letter, an index from 0 nor the text of one"
    )


def _by_label(row: _Row) -> int | None:
    answer = str(row.answer)
    return row.labels.index(answer) if row.labels.count(answer) == 1 else None


def _by_letter(row: _Row) -> int | None:
    if not isinstance(row.answer, str) or len(row.answer) != 1:
        return None
    place = string.ascii_uppercase.find(row.answer.upper())
    return place if 0 <= place < len(row.options) else None


def _by_index(row: _Row) -> int | None:
    text = str(row.answer)
    if not (text.isascii() and text.isdigit()):
        return None
    place = int(text) - row.from_one
    return place if 0 <= place < len(row.options) else None


def _by_text(row: _Row) -> int | None:
    return row.options.index(str(row.answer)) if row.options.count(str(row.answer)) == 1 else None


_READINGS: tuple[Callable[[_Row], int | None], ...] = (_by_label, _by_letter, _by_index, _by_text)
