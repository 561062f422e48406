"""Tables of what differs between base and an arm besides the weights, and of what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape

from anomia.measure.frame import POOLED
from anomia.measure.packaging import PackagingRow
from anomia.report.sheet import MISSING, add_column, interval, new_table, sheet

HARMLESS = "harmless"
_ORDER = ("confounding", "told", HARMLESS)


def differences_table(differences: Mapping[str, Sequence[Mapping[str, str]]]) -> RenderableType:
    """What differs besides the weights, by arm, the worst first; harmless differences are counted."""
    table = new_table("What differs from base besides the weights", names=2)
    for header in ("arm", "what", "base", "arm's own", "", "why it matters"):
        add_column(table, header, words=True)
    harmless = 0
    for arm, rows in differences.items():
        harmless += sum(row["kind"] == HARMLESS for row in rows)
        shown = sorted(
            (row for row in rows if row["kind"] != HARMLESS), key=lambda row: _ORDER.index(row["kind"])
        )
        for number, row in enumerate(shown):
            cells = (row[name] for name in ("what", "base", "other", "kind", "why"))
            table.add_row(escape(arm), *map(escape, cells), end_section=number == len(shown) - 1)
    if not table.row_count:
        return Group()
    notes = [
        "confounding: it changes what a model is asked or where its answers end. A checkpoint is asked base's token ids "
        "and ends at base's end tokens where its vocabulary is base's; packaged:MODEL is asked as its folder says"
    ]
    if harmless:
        notes.append(f"harmless differences, not shown: {harmless}")
    return sheet(table, *notes)


def packaging_table(rows: Sequence[PackagingRow]) -> RenderableType:
    """Of the answers that an arm loses as packaged: how many with the same weights asked as base is."""
    table = new_table("What of the loss is packaging (answers of base that are lost)", names=3)
    for header in ("arm", "format", "language"):
        add_column(table, header, words=True)
    for header in ("lost", "by packaging", "by the weights", "share of\npackaging (%)", "lost by the weights,\nright as packaged"):  # fmt: skip
        add_column(table, header)
    for row in rows:
        share = interval(row.estimate) if row.estimate else MISSING
        counts = map(str, (row.lost, row.by_packaging, row.by_weights))
        table.add_row(
            escape(row.arm), row.probe, escape(row.scope), *counts, share, str(row.made_up),
            end_section=row.scope == POOLED,
        )  # fmt: skip
    if not table.row_count:
        return Group()
    return sheet(table, "by packaging: right with the same weights, asked and ended as base is")
