"""The table of `anomia diff`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape

from anomia.models.diff import KINDS, Difference
from anomia.report.sheet import add_column, new_table, note

_MEANING = {
    "confounding": "changes answers, and is not compression",
    "told": "belongs to compression, or is no part of a run",
    "harmless": "changes no answer",
}


def diff_view(base: str, other: str, found: Sequence[Difference]) -> RenderableType:
    """All differences, the gravest first, and what the kinds mean."""
    if not found:
        return note(escape(f"no differences between {base} and {other}"))
    table = new_table(escape(f"{other} against {base}"))
    for header in ("what differs", "kind", "base", "compressed", "why it matters"):
        add_column(table, header, words=header != "what differs")
        table.columns[-1].vertical = "top"
    for place, each in enumerate(found):
        last = place + 1 == len(found) or found[place + 1].kind != each.kind
        table.add_row(*map(escape, each), end_section=last)
    return Group(table, *(note(line) for line in summary(found)))


def summary(found: Sequence[Difference]) -> tuple[str, ...]:
    """How many differences there are of each kind, and what the kind means; no line for a kind without any."""
    counts = {kind: sum(each.kind == kind for each in found) for kind in reversed(KINDS)}
    return tuple(f"{count} {kind}: {_MEANING[kind]}" for kind, count in counts.items() if count)
