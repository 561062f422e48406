"""Picking the answer: with every kind of options and scoring, and how often it needs no knowledge of the answer."""

from __future__ import annotations

from anomia.measure import frame, measures
from anomia.measure.frame import POOLED, RECOGNITION
from anomia.measure.measures import Family
from anomia.probes import OPTION_KINDS, SCORINGS
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import LANGUAGE, Cell, Column, Filed, N, Of, Table, n_of

KIND = {kind.probe: kind for kind in OPTION_KINDS}
SCORING_WORDS = {scoring.name: scoring.label for scoring in SCORINGS}
# The measures of each kind of options and scoring.
SCORED: tuple[tuple[Family, Column], ...] = (
    (measures.drop, Column("drop", "drop")),
    (measures.normalized_drop, Column("normalized_drop", "share lost", place="files")),
    (measures.gap, Column("gap", "gap ΔPR", full="gap (ΔPR)")),
    (measures.raw_gap, Column("raw_gap", "gap in\nraw points", full="raw gap")),
    (measures.dissociation, Column("dissociation", "dissociation")),
    (measures.net_dissociation, Column("net_dissociation", "net")),
    (
        measures.expected_dissociation,
        Column("expected_dissociation", "expected from the drops", place="files"),
    ),
)
SCORINGS_FILE = Filed(
    "scorings",
    "Picking the answer, by options and scoring (%)",
    "sum: log-probability of the option; token, byte, char: divided by its length; pmi: minus the same without "
    "the question. Net: choice only − the reverse flow.",
    keys=4,
)
# Labels as the row of a table about these items, and as a column among others.
CHECKS = tuple(
    Of(measures.also_picked(name), check.row, f"choice only: {check.header}")
    for name, check in frame.CHECKS.items()
)


def checks(subject: ArmResults) -> Table:
    """How many of the choice-only items would be picked without knowing the answer."""
    rates = [(check.brief, subject.figure(check.measure)) for check in CHECKS]
    return Table(
        "checks",
        "Checks of the items that are picked but no longer answered (%)",
        (Column("check", "of these items", "text"), Column("share", "share"), Column("items", "items", "count")),
        [(label, rate, rate.n) for label, rate in rates if rate is not None],
        (
            "where the first two are near 100, picking the answer doesn't need the question; where the "
            "last two are high, it does",
        ),
    )  # fmt: skip


def scorings(subject: ArmResults) -> Table:
    """Accuracy, drop, gap and dissociation with every kind of options and every way to score them.

    The screen shows pooled figures, if there is more than one way to score.
    """
    rows: list[list[Cell]] = []
    pooled: dict[int, str] = {}
    several = False
    for scope in subject.scopes:
        for way in RECOGNITION.values():
            found = [subject.figure(family(way.name), scope) for family, _ in SCORED]
            accuracy = subject.change(measures.accuracy(way.name), scope)
            after = accuracy.after if accuracy else None
            if not (after or any(found)):
                continue
            if scope == POOLED:
                pooled[len(rows)] = way.kind
                several |= way.scoring != "sum"
            kind = KIND[way.kind]
            label = f"{kind.short}: {SCORING_WORDS[way.scoring]}"
            n = n_of(subject.figure(measures.accuracy(way.name), scope))
            rows.append([scope, label, kind.name, way.scoring, n, accuracy, *found])
    kinds = list(pooled.values())
    return Table(
        "scorings",
        "Other ways to score the options (%)",
        (
            LANGUAGE._replace(place="files"), Column("named", "options, scored by", "text", place="screen"),
            Column("options", "options", "text", place="files"),
            Column("scoring", "scored by", "text", place="files"), N._replace(place="files"),
            Column("accuracy", "accuracy,\nbase → arm", full="accuracy"),
            *(column for _, column in SCORED),
        ),
        rows,
        (
            "sum: log-probability of the whole option, which favours short ones; per character: as acc_norm of "
            "lm-evaluation-harness; PMI: how much the question raises the option",
        ),
        rules=[place for place, kind in enumerate(kinds) if kinds[place + 1 : place + 2] != [kind]],
        on_screen=list(pooled) if several else [],
    )  # fmt: skip
