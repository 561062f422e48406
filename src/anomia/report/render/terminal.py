"""Tables in the terminal."""

from __future__ import annotations

from rich.align import VerticalAlignMethod
from rich.console import Group, RenderableType
from rich.text import Text

from anomia.report.naming import printable
from anomia.report.render.stars import settled
from anomia.report.render.whole_table import WholeTable
from anomia.report.render.words import cells, note_text
from anomia.report.tables.table import Table, on_screen


def view(*tables: Table) -> Group:
    """Each table with its notes below; tables without rows are left out."""
    parts: list[RenderableType] = []
    for table in map(settled, map(on_screen, tables)):
        if table.rows:
            parts += [_whole(table), *(note(note_text(line)) for line in table.notes)]
    return Group(*parts)


def note(text: str) -> Text:
    """A line under a table."""
    return Text(plain(text), style="dim")


def plain(text: str) -> str:
    """Text of models and data sets without control characters, which a terminal would obey."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _whole(table: Table) -> WholeTable:
    """A table that is never cut off, however narrow the terminal."""
    whole = WholeTable(f"\n{plain(table.title)}" if table.title else "", names=table.keys)
    # Sentences next to each other start on the same line.
    vertical: VerticalAlignMethod = "top" if _of_sentences(table) else "bottom"
    for place, column in enumerate(table.columns):
        folds = place < table.keys or column.kind == "words"
        whole.add_column(
            Text(plain(column.header)),
            justify="left" if folds or column.kind == "text" else "right",
            vertical=vertical,
            no_wrap=not folds,
        )
    for place, row in enumerate(cells(table)):
        whole.add_row(*(Text(plain(text)) for text in row), end_section=place in table.rules)
    return whole


def _of_sentences(table: Table) -> bool:
    return len(table.columns) > 1 and all(column.kind == "words" for column in table.columns[1:])
