"""Tables as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from anomia.report.render.page import plain
from anomia.report.tables.table import Table


def html(table: Table) -> str:
    """The table with its notes, escaped; empty without rows."""
    return "".join(
        f"<table>{_row('th', found['columns'])}{''.join(_row('td', row) for row in found['rows'])}</table>"
        + "".join(f"<p>{escape(note)}</p>" for note in found["notes"])
        for found in plain(table)
    )


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
