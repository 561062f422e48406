"""Paired tests of what changed."""

from __future__ import annotations

from anomia.measure.frame import POOLED, RECOGNITION
from anomia.measure.results import Results
from anomia.probes import short
from anomia.report.render.words import probability
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import ARM, LANGUAGE, Cell, Column, Table

KEPT_P = 0.05


def paired_tests(subject: ArmResults) -> Table:
    """Pooled tests, and the languages that remain significant after Holm's correction."""
    mine = [row for row in subject.results.diagnosis.tests if row.arm == subject.arm]
    # The other scorings have their own table; their tests are in the table files.
    other = tuple(name for name, way in RECOGNITION.items() if way.scoring not in ("sum", "pmi"))
    rows: list[tuple[Cell, ...]] = []
    for measure in dict.fromkeys(row.measure for row in mine):
        if measure.removesuffix(" changed").endswith(other):
            continue
        found = {row.scope: row for row in mine if row.measure == measure}
        kept = [
            f"{scope} {probability(row.adjusted)}"
            for scope, row in found.items()
            if row.adjusted is not None and row.adjusted < KEPT_P
        ]
        pooled = found[POOLED].test if POOLED in found else None
        changed = f"{pooled.changed} of {pooled.units}" if pooled else None
        rows.append((hypothesis(measure), pooled and pooled.p_value, changed, ", ".join(kept) or "none"))
    methods = dict.fromkeys(row.test.method for row in mine)
    return Table(
        "tests",
        "Paired tests",
        (
            Column("hypothesis", "hypothesis", "text"), Column("p_value", "p, pooled", "probability"),
            Column("changed", "changed", "count"), Column("languages", "languages with p < 0.05 after Holm", "words"),
        ),
        rows,
        (f"{', '.join(methods)}; Holm's family: the languages within one arm and one hypothesis",),
    )  # fmt: skip


def paired_tests_file(results: Results) -> Table:
    """All paired tests, with Holm's p-values."""
    return Table(
        "tests",
        "Paired tests",
        (
            ARM, Column("hypothesis", "hypothesis", "text"), LANGUAGE,
            Column("p_value", "p", "probability"), Column("p_value_holm", "p, Holm", "probability"),
            Column("changed", "changed", "count"), Column("units", "units", "count"),
            Column("method", "method", "text"), Column("family", "Holm's family", "text"),
        ),
        [
            (
                row.arm, row.measure, row.scope, row.test.p_value, row.adjusted, row.test.changed, row.test.units,
                row.test.method, row.family,
            )
            for row in results.diagnosis.tests
        ],
        ("changed: items (or passages) that the test uses, of all units. pooled is outside Holm's family.",),
        keys=3,
    )  # fmt: skip


def hypothesis(measure: str) -> str:
    """A hypothesis in words; tests are about items, not shares."""
    lost = "open lost more items than "
    if measure.startswith(lost):
        return f"{lost}{short(measure.removeprefix(lost))} (raw points)"
    return f"{short(measure.removesuffix(' changed'))} changed"
