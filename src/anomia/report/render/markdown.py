"""Tables as Markdown: pipe tables under a heading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from anomia.report.render.stars import settled
from anomia.report.render.words import cells, clean, header, paragraph
from anomia.report.tables.table import TEXTS, Table

_SIGNS = re.compile(r"([\\`*_\[\]|~$])")


def markdown(table: Table) -> str:
    """A pipe table under a heading, with its notes."""
    table = settled(table)
    heads = [escape(header(column)) for column in table.columns]
    texts = [column.kind in TEXTS for column in table.columns]
    rows = [
        # Only texts come from models and data; an interval's brackets stay readable.
        [
            escape(cell) if is_text else cell.replace("*", r"\*")
            for cell, is_text in zip(row, texts, strict=True)
        ]
        for row in cells(table, precise=True)
    ]
    lines = [f"# {escape(table.title)}", "", *([escape(paragraph(table)), ""] if table.notes else [])]
    return "\n".join([*lines, *pipes(heads, rows, right=[not is_text for is_text in texts])]) + "\n"


def pipes(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool] = ()) -> list[str]:
    """The lines of a pipe table of escaped cells. right: which columns are right-aligned; none by default."""
    rules = ["---:" if side else "---" for side in right or [False] * len(heads)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]


def escape(text: str) -> str:
    """Text on one line that Markdown shows as is."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SIGNS.sub(r"\\\1", text)
