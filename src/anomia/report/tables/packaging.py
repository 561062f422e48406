"""What differs between base and an arm besides the weights, and how much of the loss that explains."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.models.difference import KINDS, Difference
from anomia.report.tables.table import ARM, LANGUAGE, Column, Note, Table

HARMLESS = "harmless"
_MEANING = {
    "confounding": "changes answers, but is not compression",
    "noted": "worth knowing: part of compression, or without effect on a run",
    HARMLESS: "changes no answer",
}


def packaging(results: Results) -> Table:
    """Of the answers that an arm loses as packaged: how many the same weights get right when asked like base."""
    rows = results.packaging
    return Table(
        "packaging",
        "How much of the loss is packaging (base's answers that are lost)",
        (
            ARM, Column("format", "format", "text"), LANGUAGE, Column("lost", "lost", "count"),
            Column("by_packaging", "by packaging", "count"), Column("by_weights", "by the weights", "count"),
            Column("share_of_packaging", "share of\npackaging (%)"),
            Column("made_up", "lost by the weights,\nright as packaged", "count"),
        ),
        [
            (
                row.arm, row.probe, row.scope, row.lost, row.by_packaging, row.by_weights, row.estimate or None,
                row.made_up,
            )
            for row in rows
        ],
        ("by packaging: right with the same weights, asked and ended as base is",),
        keys=3,
        rules=[place for place, row in enumerate(rows) if row.scope == POOLED],
    )  # fmt: skip


def besides_weights(results: Results) -> Table:
    """What differs besides the weights, by arm, the worst first; harmless differences are only counted."""
    rows, rules, harmless = [], [], 0
    for arm, found in results.differences.items():
        shown = sorted((row for row in found if row.kind != HARMLESS), key=_gravest)
        harmless += len(found) - len(shown)
        rows += [
            (arm, *(getattr(row, name) for name in ("what", "base", "other", "kind", "why"))) for row in shown
        ]
        rules += [len(rows) - 1] if shown else []
    notes = [
        "confounding: it changes what a model is asked or where its answers end. A checkpoint is asked base's token "
        "ids and ends at base's end tokens where its vocabulary is base's; packaged:MODEL is asked as its folder says"
    ]
    if harmless:
        notes.append(f"harmless differences, not shown: {harmless}")
    return Table(
        "differences",
        "What differs from base besides the weights",
        (
            ARM, Column("what", "what", "words"), Column("base", "base", "words"),
            Column("other", "arm's own", "words"), Column("kind", "", "words"),
            Column("why", "why it matters", "words"),
        ),
        rows,
        notes,
        keys=2,
        rules=rules,
    )  # fmt: skip


def differences(base: str, other: str, found: Sequence[Difference]) -> Table:
    """All differences between two models, the most serious first, and what the kinds mean."""
    notes: list[Note] = [*summary(found)]
    return Table(
        "differences",
        f"{other} against {base}",
        (
            Column("what", "what differs", "text"), Column("kind", "kind", "words"), Column("base", "base", "words"),
            Column("other", "compressed", "words"), Column("why", "why it matters", "words"),
        ),
        [each[:5] for each in found],
        notes,
        rules=[
            place
            for place, each in enumerate(found)
            if place + 1 == len(found) or found[place + 1].kind != each.kind
        ],
    )  # fmt: skip


def summary(found: Sequence[Difference]) -> tuple[str, ...]:
    """The number of differences of each kind, and what the kind means; no line for a kind without any."""
    counts = {kind: sum(each.kind == kind for each in found) for kind in reversed(KINDS)}
    return tuple(f"{count} {kind}: {_MEANING[kind]}" for kind, count in counts.items() if count)


def _gravest(row: Difference) -> int:
    return -KINDS.index(row.kind)
