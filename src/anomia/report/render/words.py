"""Cells as text: with few digits in the terminal and on the page, with more in the table files."""

from __future__ import annotations

from anomia.measure.rates import Estimate
from anomia.report.naming import printable
from anomia.report.tables.table import Cell, Change, Column, CountAndShare, Kind, Marked, Note, Table

MISSING = "–"


def shown(cell: Cell, kind: Kind = "share", digits: int | None = None, *, precise: bool = False) -> str:
    """A cell as people read it: `27 [18, 39]` in per cent, with a star if the interval was not validated.

    digits: decimals in the terminal and on the page; None for the kind's default. precise: as in the table files,
    `27.3 [18.2, 38.9]`.
    """
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return clean(cell) if precise else cell
    if isinstance(cell, Change):
        return " → ".join(shown(part, kind, digits, precise=precise) for part in cell)
    if isinstance(cell, CountAndShare):
        count = f"{cell.items:,}"
        return f"{count} · {shown(cell.share, precise=precise)}" if cell.share else count
    if isinstance(cell, Marked):
        return shown(cell.value, kind, digits, precise=precise) + cell.mark
    if isinstance(cell, Estimate):
        value, low, high = (_number(part, kind, digits, precise, of_three=True) for part in cell[:3])
        return f"{value} [{low}, {high}]" + ("" if cell.checked else "*")
    return _number(cell, kind, digits, precise)


def cells(table: Table, *, precise: bool = False) -> list[list[str]]:
    """All cells of a table as text, by row."""
    return [
        [
            shown(cell, column.kind, column.digits, precise=precise)
            for cell, column in zip(row, table.columns, strict=True)
        ]
        for row in table.rows
    ]


def header(column: Column) -> str:
    """A column's header on one line."""
    return column.header.replace("\n", " ")


def note_text(note: Note, *, precise: bool = False) -> str:
    """A note as text."""
    if isinstance(note, str):
        return note
    return "".join(
        part if isinstance(part, str) else shown(part.cell, part.kind, part.digits, precise=precise)
        for part in note
    )


def paragraph(table: Table) -> str:
    """The notes of a table as the sentences of one paragraph."""
    sentences = (note_text(note, precise=True) for note in table.notes)
    return " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in sentences)


def clean(text: str) -> str:
    """One line without control and direction characters, because names come from models and data sets."""
    return " ".join(printable(text).split())


def probability(p_value: float) -> str:
    """`0.031`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def rank(value: float) -> str:
    """`3.5`, `17`, `1,204`."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _number(value: float, kind: Kind, digits: int | None, precise: bool, *, of_three: bool = False) -> str:
    """One number. of_three: it is part of an estimate, whose three numbers have equally many decimals."""
    if kind == "share":
        return _fixed(100 * value, 1 if precise else digits or 0)
    if kind == "probability":
        return probability(value)
    if kind == "bytes":
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, int):
        return f"{value:,}"
    if precise:
        plain = f"{value:.4g}".replace("-", "−")
        return _fixed(value, 1 if kind == "rank" else 3) if of_three else plain
    return rank(value) if kind == "rank" else _fixed(value, 2 if digits is None else digits)


def _fixed(value: float, digits: int) -> str:
    """A fixed number of decimals, with a true minus sign, and none before 0."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
