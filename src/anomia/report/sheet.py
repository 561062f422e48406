"""What the tables of the terminal are made of: columns, rows, numbers in words, and the notes below."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from anomia.measure.figures import Lookup, before
from anomia.measure.rates import Estimate
from anomia.report.stars import count_stars, stars, without_stars
from anomia.report.whole_table import WholeTable

MISSING = "–"


def new_table(title: str, *, names: int = 1) -> WholeTable:
    """An empty table in the style of all of them. names: how many of its first columns say what a row is about."""
    return WholeTable(f"\n{title}", names=names)


def add_column(table: Table, header: str, *, words: bool = False) -> None:
    """The first column is for names, all others for numbers or, where it is said, for words that may wrap."""
    first = not table.columns
    left = first or words
    table.add_column(header, justify="left" if left else "right", vertical="bottom", no_wrap=not left)


def add_row(table: Table, scope: str, scopes: Sequence[str], cells: Sequence[str]) -> None:
    """A row; languages are set apart from what is taken over them."""
    last = len(scopes) > 1 and scope == scopes[-2]
    table.add_row(escape(scope), *cells, end_section=last)


def sheet(table: WholeTable, *notes: str) -> Group:
    """A table with its notes below; stars stay where they tell some intervals from others, else one note does it."""
    columns = table.columns[table.names :]
    found = [count_stars(text) for text in [*_texts(columns), *notes]]
    rule = stars(sum(n for n, _ in found), sum(n for _, n in found))
    if not rule.kept:
        table.reword(without_stars)
        notes = tuple(map(without_stars, notes))
    lines: list[RenderableType] = [note(text) for text in (*notes, rule.note) if text]
    return Group(table, *lines)


def _texts(columns: Sequence[Column]) -> list[str]:
    return [cell for column in columns for cell in column.cells if isinstance(cell, str)]


def note(text: str) -> Text:
    """A line under a table."""
    return Text.from_markup(text, style="dim")


def interval(estimate: Estimate | None) -> str:
    """`27 [18, 39]` in per cent; a star where the interval was not validated for so few items."""
    if estimate is None:
        return MISSING
    value, low, high = (whole(100 * x) for x in estimate[:3])
    return f"{value} \\[{low}, {high}]" + ("" if estimate.checked else "*")


def number(estimate: Estimate | None, digits: int = 2) -> str:
    """`0.31 [0.24, 0.41]`, in its own unit."""
    if estimate is None:
        return MISSING
    value, low, high = (f"{x:.{digits}f}".replace("-", "−") for x in estimate[:3])
    return f"{value} \\[{low}, {high}]" + ("" if estimate.checked else "*")


def whole(value: float) -> str:
    """A number without decimals, with a true minus sign and none before 0."""
    return f"{round(value)}".replace("-", "−")


def given(figures: Lookup, arm: str, measure: str, scopes: Sequence[str]) -> bool:
    """Whether a measure is there in any of the scopes, if only to say that it can't be given."""
    return any((arm, measure, scope) in figures for scope in scopes)


def change(figures: Lookup, arm: str, measure: str, scope: str) -> str:
    """`34 [25, 45] → 10 [5, 18]`: base's figure, over the arm's items, and the arm's."""
    was, after = before(figures, arm, measure, scope), figures.get((arm, measure, scope))
    return MISSING if was is None and after is None else f"{interval(was)} → {interval(after)}"


def probability(p_value: float | None) -> str:
    """`0.031`, or `< 0.001`."""
    if p_value is None:
        return MISSING
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
