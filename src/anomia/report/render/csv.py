"""Tables as CSV, for machines, with all digits."""

from __future__ import annotations

import csv
import io

from anomia.measure.rates import Estimate
from anomia.report.render.words import clean
from anomia.report.tables.table import Cell, Change, CountAndShare, Marked, Number, Table

_Plain = str | float | int | None
_ENDS = ("", "_low", "_high", "_n")


def csv_text(table: Table) -> str:
    """Shares as fractions, as in `results.json`; an estimate becomes NAME, NAME_low, NAME_high and NAME_n.

    A change becomes NAME_base and NAME_arm, a count with its share NAME and NAME_share, a figure with a mark NAME and
    NAME_mark.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [part for place in range(len(table.columns)) for part in _columns(table, place)]
    writer.writerow([name for name, _ in columns])
    writer.writerows(zip(*(values for _, values in columns), strict=True))
    return out.getvalue()


def _columns(table: Table, place: int) -> list[tuple[str, list[_Plain]]]:
    """The CSV columns that one column of cells becomes."""
    name, found = table.columns[place].name, [row[place] for row in table.rows]
    ends = max((_parts(cell) for cell in found), key=len, default={})
    return [
        column
        for end in ends or [""]
        for column in _numbers(f"{name}{end}", [_parts(cell).get(end) for cell in found])
    ]


def _parts(cell: Cell) -> dict[str, str | Number]:
    """The parts of a cell, by their column's suffix."""
    if isinstance(cell, Change):
        return {"_base": cell.before, "_arm": cell.after}
    if isinstance(cell, CountAndShare):
        return {"": cell.items, "_share": cell.share}
    if isinstance(cell, Marked):
        return {"": cell.value, "_mark": cell.mark.strip()}
    return {"": cell}


def _numbers(name: str, found: list[str | Number]) -> list[tuple[str, list[_Plain]]]:
    if not any(isinstance(value, Estimate) for value in found):
        return [(name, [_flat(value) for value in found])]
    wide = [_wide(value) for value in found]
    return [(f"{name}{end}", [row[place] for row in wide]) for place, end in enumerate(_ENDS)]


def _wide(value: str | Number) -> list[_Plain]:
    if isinstance(value, Estimate):
        return [_rounded(value.value), _rounded(value.low), _rounded(value.high), value.n]
    return [_flat(value), None, None, None]


def _flat(value: str | Number) -> _Plain:
    if isinstance(value, str):
        text = clean(value)
        # A spreadsheet would take such text for a formula.
        return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
    value = value.value if isinstance(value, Estimate) else value
    return _rounded(value) if isinstance(value, float) else value


def _rounded(value: float) -> float:
    """Ten significant digits: floating-point noise beyond them differs between machines."""
    return float(f"{value:.10g}")
