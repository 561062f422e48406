"""What became of the items that base gets right in both formats: fates, dissociation, and all transitions."""

from __future__ import annotations

from anomia.measure import measures
from anomia.measure.fates import DISSOCIATED, FATES, FateCounts
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.probes import OPTION_KINDS, STANDARD
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import (
    ARM,
    LANGUAGE,
    Cell,
    Column,
    CountAndShare,
    Note,
    NoteValue,
    Of,
    Table,
    by_scope,
    given,
    values,
)

COUNTS = (
    Column("kept", "kept", "count"),
    Column("choice_only", "choice only\n(dissociation)", "count"),
    Column("open_only", "open\nonly", "count"),
    Column("lost", "lost", "count"),
)
SHARES = tuple(
    Of(measures.share("choice", fate), f"{fate.replace('_', ' ')} (%)")
    for fate in FATES
    if fate != DISSOCIATED
)
OTHERS = tuple(kind for kind in OPTION_KINDS if kind.name != STANDARD)
RATES = (
    Of(measures.dissociation("choice"), "dissociation"),
    Of(measures.net_dissociation("choice"), "net\n(− reverse)", "net"),
    Of(measures.expected_dissociation("choice"), "expected from\nthe drops alone"),
    *(
        Of(family(kind.probe), f"{kind.adjective}\noptions{ending}")
        for kind in OTHERS
        for family, ending in ((measures.dissociation, ""), (measures.net_dissociation, ", net"))
    ),
)
STATES = {"both": "both", "choice_only": "choice only", "open_only": "open only", "neither": "neither"}
_STATE_COLUMNS = tuple(Column(state, label, "count") for state, label in STATES.items())
BOTH = Column("both_correct", "both\ncorrect", "count")


def fates(subject: ArmResults) -> Table:
    """Counts of fates, and shares with their intervals."""
    counts = _counts(subject)

    def cells(scope: str) -> list[Cell] | None:
        if scope not in counts:
            return None
        found = [
            CountAndShare(
                count,
                subject.figure(measures.fate_share("choice", fate), scope),
            )
            for fate, count in zip(FATES, counts[scope], strict=True)
        ]
        return [counts[scope].both_correct, *found]

    rows, rules = by_scope(subject.scopes, cells)
    few = any(isinstance(cell, CountAndShare) and cell.share is None for row in rows for cell in row)
    return Table(
        "fates",
        "Fates of the items that base gets right in both formats: items · share (%)",
        (LANGUAGE, BOTH, *COUNTS),
        rows,
        ("no share: fewer than 10 such items, or not computed",) if few else (),
        rules=rules,
    )


def dissociation(subject: ArmResults) -> Table:
    """Dissociation, net dissociation, and the rate that the two drops alone would give, by language."""
    shown, counts = given(RATES, subject.figures, subject.arm, subject.scopes), _counts(subject)

    def cells(scope: str) -> list[Cell] | None:
        if scope not in counts or not shown:
            return None
        return [
            "too few" if rate is None else rate for rate in values(shown, subject.figures, subject.arm, scope)
        ]

    rows, rules = by_scope(subject.scopes, cells)
    notes: list[Note] = []
    if any(rate.measure.family == measures.net_dissociation.name for rate in shown):
        notes.append(
            "net: minus the items that went the other way, from only picked in base to picked and answered in the arm; "
            "noise moves as many in each direction and leaves it at 0"
        )
    for kind in OTHERS:
        contrast = subject.figure(measures.contrast(f"dissociation_{kind.name}_minus_standard"))
        if contrast:
            notes.append(
                (f"dissociation, {kind.adjective} − standard options: ", NoteValue(contrast), " points")
            )
    if any("too few" in row for row in rows):
        notes.append("too few: fewer than 10 items that base gets right in both formats")
    return Table(
        "dissociation",
        "Dissociation: of the items that base gets right in both formats, picked but no longer answered (%)",
        (LANGUAGE, *(rate.column() for rate in shown)),
        rows,
        notes,
        rules=rules,
    )


def transitions(subject: ArmResults) -> Table:
    """Every item by its state in base and in the arm: 4 × 4 counts."""
    found = {
        row.before: [getattr(row, after) for after in STATES]
        for row in subject.results.diagnosis.transitions
        if (row.arm, row.options, row.scope) == (subject.arm, "choice", POOLED)
    }
    rows = [
        (label, *found[before], sum(found[before])) for before, label in STATES.items() if before in found
    ]
    if rows:
        totals = [sum(counts) for counts in zip(*found.values(), strict=True)]
        rows.append(("all", *totals, sum(totals)))
    return Table(
        "transitions",
        "From base to arm: items by the formats that base gets right (rows) and that the arm gets right (columns)",
        (Column("base", "base", "text"), *_STATE_COLUMNS, Column("all", "all", "count")),
        rows,
        ("counts of items, languages pooled; standard options",),
        rules=[len(rows) - 2] if "neither" in found else [],
    )


def fates_file(results: Results) -> Table:
    """Fates and all rates, by arm and language."""
    figures, shown = lookup(results.diagnosis.figures), (*SHARES, *RATES)
    return Table(
        "fates",
        "Fates of the items that base gets right in both formats, and dissociation rates (%)",
        (
            ARM,
            LANGUAGE,
            BOTH,
            *(column._replace(header=column.name.replace("_", " ")) for column in COUNTS),
            *(of.column(full=True) for of in shown),
        ),
        [
            (
                row.arm,
                row.scope,
                row.counts.both_correct,
                *row.counts,
                *values(shown, figures, row.arm, row.scope),
            )
            for row in results.diagnosis.fates
            if row.options == "choice"
        ],
        (
            "Dissociation: choice only / both correct, not given below 10 such items. Net: minus the reverse flow.",
        ),
        keys=2,
    )


def transitions_file(results: Results) -> Table:
    """Counts from each state of base to each of the arm, by arm, language and kind of options."""
    return Table(
        "transitions",
        "From base to arm",
        (
            ARM, LANGUAGE, Column("options", "options", "text"), Column("base", "base gets right", "text"),
            *_STATE_COLUMNS,
        ),
        [
            (
                row.arm,
                row.scope,
                row.options,
                STATES[row.before],
                *(getattr(row, state) for state in STATES),
            )
            for row in results.diagnosis.transitions
        ],
        (
            "Items by the formats that base gets right (rows) and that the arm gets right (columns): open and "
            "choice, one of them, neither.",
        ),
        keys=4,
    )  # fmt: skip


def _counts(subject: ArmResults) -> dict[str, FateCounts]:
    """Fates under standard options, by scope."""
    return {
        row.scope: row.counts
        for row in subject.results.diagnosis.fates
        if (row.arm, row.options) == (subject.arm, "choice")
    }
