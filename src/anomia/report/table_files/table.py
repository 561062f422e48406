"""A table before it is written: columns with names for machines and for people, and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from anomia.measure.rates import Estimate
from anomia.report.figures.cases import printable
from anomia.report.sheet import probability

Cell = str | int | float | Estimate | None
# share: a fraction, shown in per cent. number: as it is. words: sentences.
Kind = Literal["text", "words", "count", "share", "number", "rank", "probability"]
MISSING = "–"


class Column(NamedTuple):
    """name: in CSV, where an estimate makes four columns of it. header: in Markdown and LaTeX."""

    name: str
    header: str
    kind: Kind = "share"


class Table(NamedTuple):
    """note: what the numbers are, in one or two sentences. keys: how many first columns name the row; in
    LaTeX rows that differ in any but the last of them are set apart."""

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: list[tuple[Cell, ...]]
    keys: int = 2


RUN = Column("run", "run", "text")
ARM = Column("arm", "arm", "text")
MODEL = Column("model", "model", "text")
LANGUAGE = Column("language", "language", "text")
N = Column("n", "n", "count")


def shown(cell: Cell, kind: Kind) -> str:
    """A cell as people read it: `27.3 [18.2, 38.9]` in per cent, a star where the interval was not validated."""
    if cell is None:
        return MISSING
    if isinstance(cell, Estimate):
        scale, digits = (100.0, 1) if kind == "share" else (1.0, 1 if kind == "rank" else 3)
        value, low, high = (_number(scale * number, digits) for number in cell[:3])
        return f"{value} [{low}, {high}]" + ("" if cell.checked else "*")
    if isinstance(cell, str):
        return clean(cell)
    if kind == "share":
        return _number(100 * cell, 1)
    if kind == "probability":
        return probability(cell)
    return f"{cell:,}" if isinstance(cell, int) else _plain_number(cell)


def clean(text: Any) -> str:
    """One line without control and direction characters: names come from models and data sets."""
    return " ".join(printable(str(text)).split())


def filled(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]]
) -> tuple[tuple[Column, ...], list[tuple[Cell, ...]]]:
    """Without the columns in which no row has a value: probes that were not asked."""
    keep = [place for place in range(len(columns)) if any(row[place] is not None for row in rows)]
    return tuple(columns[place] for place in keep), [tuple(row[place] for place in keep) for row in rows]


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _plain_number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
