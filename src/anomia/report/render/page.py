"""Tables on the page, as plain values, with the same cells as in the terminal."""

from __future__ import annotations

from typing import Any

from anomia.report.naming import shortened
from anomia.report.render.stars import settled
from anomia.report.render.words import cells, header, note_text
from anomia.report.tables.table import Table, on_screen

LONGEST_CELL = 600


def plain(*tables: Table) -> list[dict[str, Any]]:
    """Each table that has rows, as a `title`, `columns`, `rows` of texts, `rules` and `notes`."""
    return [
        {
            "title": table.title,
            "columns": [_cell(header(column)) for column in table.columns],
            "rows": [[_cell(text) for text in row] for row in cells(table)],
            "rules": list(table.rules),
            "notes": [note_text(note) for note in table.notes],
        }
        for table in map(settled, map(on_screen, tables))
        if table.rows
    ]


def _cell(text: str) -> str:
    return shortened(text, LONGEST_CELL)
