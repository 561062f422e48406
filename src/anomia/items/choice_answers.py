"""Find the right option from a row's answer: a label, letter, index or text, read the same way in the whole file."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from anomia.errors import DataError
from anomia.items.choice_rows import ChoiceRow


class AnswerReading(NamedTuple):
    """A way to read answers.

    label: its name in messages. place: returns the position of the right option in a row, or None if the answer
    doesn't fit this reading.
    """

    label: str
    place: Callable[[ChoiceRow], int | None]


def right_options(rows: Sequence[ChoiceRow], *, answer: str | None, data: str) -> list[int]:
    """The position (from 0) of the right option in each row, using the one reading that fits all rows.

    A known layout has a known reading, which wins. Otherwise, if the options have labels that fit, the answers are
    labels or texts. If several readings still fit every row, they must agree.

    Args:
        answer: a name in `READINGS`; None detects the reading.
        data: the user's `data` value, to which error messages append the suggested reading.

    Raises:
        DataError: no reading fits, or several fit and mean different options.
    """
    if answer is not None:
        return _read_as(READINGS[answer], rows, answer)
    fits = _fitting(rows)
    if not fits:
        _refuse_misfit(rows)
    usual = {row.usual or "" for row in rows if row.right is None}
    if len(usual) == 1 and (known := usual.pop()) in fits:
        return fits[known]
    if "label" in fits:
        fits = {word: places for word, places in fits.items() if word in ("label", "text")}
    for row, places in zip(rows, zip(*fits.values(), strict=True), strict=True):
        if len(set(places)) > 1:
            meant = " or ".join(
                f"{row.options[place]!r} ({READINGS[word].label})"
                for word, place in zip(fits, places, strict=True)
            )
            first, *others = fits
            raise DataError(
                f"data: {row.place}: the answer {row.answer!r} may mean {meant}, and each of these fits every row "
                f"of the file; say which: {data},answer={first} (or {', '.join(others)})"
            )
    return next(iter(fits.values()))


def _read_as(reading: AnswerReading, rows: Sequence[ChoiceRow], word: str) -> list[int]:
    found = []
    for row in rows:
        place = _place(reading, row)
        if place is None:
            raise DataError(
                f"data: {row.place}: the answer {row.answer!r} is not one of its {len(row.options)} options when it "
                f"is read as answer={word}, {reading.label}"
            )
        found.append(place)
    return found


def _fitting(rows: Sequence[ChoiceRow]) -> Mapping[str, list[int]]:
    fits: dict[str, list[int]] = {}
    for word, reading in READINGS.items():
        places = [_place(reading, row) for row in rows]
        whole = [place for place in places if place is not None]
        if len(whole) == len(places):
            fits[word] = whole
    return fits


def _refuse_misfit(rows: Sequence[ChoiceRow]) -> NoReturn:
    """Raise the error for a file that no reading fits: one bad row, or rows of several kinds."""
    for row in rows:
        if any(_place(reading, row) is not None for reading in READINGS.values()):
            continue
        times = row.options.count(row.answer or "")
        if times > 1:
            raise DataError(
                f"data: {row.place}: the answer {row.answer!r} appears {times} times among its options; give it once"
            )
        raise DataError(
            f"data: {row.place}: the answer {row.answer!r} is not one of its {len(row.options)} options: neither a "
            f"label, a letter, an index nor the text of one{_held_back(row)}"
        )
    usual = max(READINGS.values(), key=lambda reading: sum(_place(reading, row) is not None for row in rows))
    odd = next(row for row in rows if _place(usual, row) is None)
    other = next(reading for reading in READINGS.values() if _place(reading, odd) is not None)
    raise DataError(
        f"data: {odd.place}: the answers of this file are of several kinds: most fit as {usual.label}, "
        f"{odd.answer!r} as {other.label}; give labels, letters, indices or texts throughout"
    )


def _held_back(row: ChoiceRow) -> str:
    return "; test splits without answers have -1 there" if row.answer in ("-1", "-1.0") else ""


def _place(reading: AnswerReading, row: ChoiceRow) -> int | None:
    return reading.place(row) if row.right is None else row.right


def _by_label(row: ChoiceRow) -> int | None:
    return _only(row.labels, row.answer)


def _by_letter(row: ChoiceRow) -> int | None:
    if row.answer is None or len(row.answer) != 1:
        return None
    place = string.ascii_uppercase.find(row.answer.upper())
    return place if 0 <= place < len(row.options) else None


def _by_index(row: ChoiceRow, first: int = 0) -> int | None:
    # Spreadsheets and pandas write 1.0 for integers if the column has gaps.
    found = re.fullmatch(r"([0-9]{1,3})(?:\.0+)?", row.answer or "")
    if found is None:
        return None
    place = int(found[1]) - first
    return place if 0 <= place < len(row.options) else None


def _by_index_from_one(row: ChoiceRow) -> int | None:
    return _by_index(row, 1)


def _by_text(row: ChoiceRow) -> int | None:
    return _only(row.options, row.answer)


def _only(texts: Sequence[str], text: str | None) -> int | None:
    return texts.index(text) if text is not None and texts.count(text) == 1 else None


READINGS: Mapping[str, AnswerReading] = {
    "label": AnswerReading("the label of an option", _by_label),
    "letter": AnswerReading("a letter", _by_letter),
    "index": AnswerReading("an index from 0", _by_index),
    "index1": AnswerReading("an index from 1", _by_index_from_one),
    "text": AnswerReading("the text of an option", _by_text),
}
