"""Tables and panels that are never cut off, however narrow the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

# Wider than any table, to measure columns at their natural width.
_UNPRESSED = 100_000
# The share of the console's width that name columns may take, so that numbers fit next to them.
_NAMES_SHARE = 0.45
# The least width of a column of words next to others; with less, it moves to the next part.
_WORDS = 24


class WholeTable(Table):
    """A table that continues below, repeating its names, if the console is too narrow for all columns.

    Names longer than their share of the console are folded, and so is a cell that doesn't fit even alone.

    names: how many leading columns identify a row.
    """

    def __init__(self, title: str, *, names: int = 1) -> None:
        super().__init__(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        self.names = names

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The title over the full width, then as many tables as the columns need."""
        if self.title:
            yield Text(str(self.title), style="bold")
        names, rest = self.columns[: self.names], self.columns[self.names :]
        room = int(options.max_width * _NAMES_SHARE / max(1, len(names)))
        widths = [min(_natural(column, console, options), room) for column in names]
        shown: list[Column] = []
        for column in rest:
            if shown and not self._fits([*shown, column], widths, console, options):
                yield self._part(shown, widths, None)
                shown = []
            shown.append(column)
        alone = not self._fits(shown, widths, console, options)
        yield self._part(shown, widths, None, fold=alone)

    def _fits(
        self, columns: Sequence[Column], widths: Sequence[int], console: Console, options: ConsoleOptions
    ) -> bool:
        part = self._part(columns, widths, _WORDS)
        wide = options.update(width=_UNPRESSED, max_width=_UNPRESSED)
        return Measurement.get(console, wide, part).maximum <= options.max_width

    def _part(
        self, columns: Sequence[Column], widths: Sequence[int], words: int | None, *, fold: bool = False
    ) -> Table:
        """A table of the names and some columns. words: the maximum width of columns that may wrap."""
        part = Table(box=self.box, padding=self.padding, pad_edge=self.pad_edge)
        names = self.columns[: len(widths)]
        for column, width in zip(names, widths, strict=True):
            part.add_column(
                column.header, justify=column.justify, vertical=column.vertical, width=width, overflow="fold"
            )
        for column in columns:
            part.add_column(
                column.header,
                justify=column.justify,
                vertical=column.vertical,
                no_wrap=column.no_wrap and not fold,
                overflow="fold",
                max_width=None if column.no_wrap else words,
            )
        cells = zip(*(column.cells for column in (*names, *columns)), strict=True)
        for row, shown in zip(self.rows, cells, strict=True):
            part.add_row(*shown, end_section=row.end_section)
        return part


class Titled:
    """A panel with its title in the border if it fits there, else as the first lines inside."""

    def __init__(self, body: RenderableType, title: Text, *, padding: tuple[int, int] = (0, 1)) -> None:
        self.body, self.title, self.padding = body, title, padding

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One panel as wide as the console."""
        # Corners, plus a line and a space on either side of the title.
        if self.title.cell_len + 6 <= options.max_width:
            yield Panel(self.body, title=self.title, title_align="left", padding=self.padding)
        else:
            head = self.title.copy()
            head.overflow = "fold"
            yield Panel(Group(head, Text(), self.body), padding=self.padding)


def _natural(column: Column, console: Console, options: ConsoleOptions) -> int:
    wide = options.update(width=_UNPRESSED, max_width=_UNPRESSED)
    parts = [column.header, *column.cells]
    return max((Measurement.get(console, wide, part).maximum for part in parts), default=0)
