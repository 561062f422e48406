"""When an interval gets a star: if that sets it apart from its neighbours; otherwise one sentence replaces them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anomia.measure.rates import CHECKED_EVENTS, CHECKED_ITEMS, Estimate
from anomia.report.tables.table import Cell, Change, CountAndShare, Marked, Note, NoteValue, Table

STARRED = "* too few items: interval not validated."
_FEW = f"fewer than {CHECKED_ITEMS} items or {CHECKED_EVENTS} changes"
ALL_FEW = f"Each figure rests on {_FEW}: these intervals were not validated by simulation."
MOST_FEW = f"Most figures rest on {_FEW}: their intervals were not validated by simulation."


class Stars(NamedTuple):
    """kept: whether the stars stay. note: the sentence that explains or replaces them."""

    kept: bool
    note: str


def stars(unchecked: int, intervals: int) -> Stars:
    """The rule for the stars of a table or figure: they are dropped if more than half of its intervals have one."""
    if not unchecked:
        return Stars(True, "")
    if 2 * unchecked <= intervals:
        return Stars(True, STARRED)
    return Stars(False, ALL_FEW if unchecked == intervals else MOST_FEW)


def settled(table: Table) -> Table:
    """The table with its stars, or without them if most intervals have one; its last note explains this."""
    found = [estimate for row in table.rows for cell in row for estimate in _estimates(cell)]
    found += [estimate for note in table.notes for estimate in _in_note(note)]
    rule = stars(sum(not estimate.checked for estimate in found), len(found))
    rows, notes = table.rows, table.notes
    if not rule.kept:
        rows = [[_unstarred(cell) for cell in row] for row in rows]
        notes = [_unstarred_note(note) for note in notes]
    return table._replace(rows=rows, notes=(*notes, rule.note) if rule.note else notes)


def _estimates(cell: Cell) -> Iterator[Estimate]:
    if isinstance(cell, Estimate):
        yield cell
    elif isinstance(cell, Change | CountAndShare | Marked):
        for part in cell:
            yield from _estimates(part)


def _in_note(note: Note) -> Iterator[Estimate]:
    if not isinstance(note, str):
        for part in note:
            if isinstance(part, NoteValue):
                yield from _estimates(part.cell)


def _unstarred(cell: Cell) -> Cell:
    if isinstance(cell, Estimate):
        return cell._replace(checked=True)
    if isinstance(cell, Change | CountAndShare | Marked):
        return type(cell)(*map(_unstarred, cell))  # type: ignore[arg-type]
    return cell


def _unstarred_note(note: Note) -> Note:
    if isinstance(note, str):
        return note
    return tuple(
        part._replace(cell=_unstarred(part.cell)) if isinstance(part, NoteValue) else part for part in note
    )
