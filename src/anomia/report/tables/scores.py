"""Scores of a task, against a non-inferiority margin."""

from __future__ import annotations

from anomia.measure.frame import POOLED
from anomia.report.tables.arm_results import ArmResults
from anomia.report.tables.table import LANGUAGE, Change, Column, Filed, N, NoteValue, Table

IN_FILES = Filed(
    "scores",
    "Scores of the task, and their drop against a margin (points)",
    "Score: the task's own grade of the free-form answer, from 0 to 100. Drop: base − arm, paired by item. "
    "non-inferior: the drop's whole 95 % interval is below the margin.",
    keys=3,
)


def scores(subject: ArmResults) -> Table:
    """Each score in base and in the arm, the paired drop, and what its interval says about the margin."""
    mine = [row for row in subject.results.scores if row.arm == subject.arm]
    # With one language, `pooled` repeats it.
    several = len({row.scope for row in mine} - {POOLED}) > 1
    shown = [place for place, row in enumerate(mine) if several or row.scope != POOLED]
    margin = subject.results.thresholds.score
    return Table(
        "scores",
        "Scores of the task: base → arm, and the paired drop (points)",
        (
            Column("part", "graded", "text"), LANGUAGE, N, Column("score", "base → arm", full="score"),
            Column("drop", "drop"), Column("outcome", "against the margin", "text"),
        ),
        [
            (row.part, row.scope, row.n, Change(row.base, row.after), row.drop, row.outcome)
            for row in mine
        ],
        (
            (
                "non-inferior: the drop's whole 95 % interval is below the margin of ", NoteValue(margin),
                " points; set another with --threshold score=…",
            ),
        ) if mine else (),
        keys=2,
        on_screen=shown,
    )  # fmt: skip
