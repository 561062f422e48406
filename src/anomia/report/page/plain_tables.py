"""The tables of the terminal as plain data, so that the page can't show other numbers than `anomia show`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.errors import MarkupError
from rich.table import Table
from rich.text import Text

LONGEST_CELL = 600


def plain_tables(*views: RenderableType) -> list[dict[str, Any]]:
    """Every table in some renderables, each with the notes below it.

    A table has a `title`, `columns`, `rows` of texts, `rules` (rows that a line is drawn after) and `notes`.
    """
    found: list[dict[str, Any]] = []
    for part in _parts(views):
        if isinstance(part, Table):
            found.append(_plain(part))
        elif isinstance(part, Text) and found:
            found[-1]["notes"].append(part.plain.strip())
    return [table for table in found if table["rows"]]


def _parts(views: tuple[RenderableType, ...]) -> Iterator[RenderableType]:
    for view in views:
        if isinstance(view, Group):
            yield from _parts(tuple(view.renderables))
        else:
            yield view


def _plain(table: Table) -> dict[str, Any]:
    columns = [[text_of(cell) for cell in column.cells] for column in table.columns]
    return {
        "title": text_of(table.title or "").strip(),
        "columns": [text_of(column.header).replace("\n", " ") for column in table.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "rules": [number for number, row in enumerate(table.rows) if row.end_section],
        "notes": [],
    }


def text_of(cell: RenderableType) -> str:
    """What a cell says, without markup; a text that is no markup stays as it is. Cut where it can't be a cell."""
    if isinstance(cell, Text):
        text = cell.plain
    else:
        try:
            text = Text.from_markup(str(cell)).plain
        except MarkupError:
            text = str(cell)
    return shortened(text, LONGEST_CELL)


def shortened(text: str, longest: int) -> str:
    """A text that is cut where it is longer than its place."""
    return text if len(text) <= longest else f"{text[:longest]}…"
