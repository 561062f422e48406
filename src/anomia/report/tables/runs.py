"""Arms and runs next to each other: what was compared, outcomes, arm against arm, and what compression saves."""

from __future__ import annotations

from itertools import compress

from anomia.measure import measures
from anomia.measure.figures import FrontierRow
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.probes import FORMATS
from anomia.report.naming import exclusions, model_name
from anomia.report.reference import nulls
from anomia.report.tables.arm_results import arm_results
from anomia.report.tables.table import (
    ARM,
    LANGUAGE,
    Column,
    Filed,
    Marked,
    N,
    Of,
    Table,
    in_files,
    n_of,
    values,
)
from anomia.report.tables.verdicts import OUTCOME, SAME_PASSAGE

COMPARED = (
    Of(measures.gap("choice"), "gap to\nchoice"),
    Of(measures.raw_gap("choice"), "in raw\npoints", "raw gap"),
    Of(measures.dissociation("choice"), "disso-\nciation", "dissociation", own_name="dissociation"),
    Of(measures.net_dissociation("choice"), "net", own_name="net_dissociation"),
)
BETWEEN = (*COMPARED[:2], COMPARED[2]._replace(brief="dissociation"))
ACCURACIES = (Of(measures.accuracy("open"), "open"), Of(measures.accuracy("choice"), "choice"))
DIFFERENCE = Of(measures.accuracy("choice_minus_open"), "choice −\nopen", place="screen")


IN_FILES = Filed(
    "runs",
    "What was compared, and its outcome (%)",
    "Pooled over languages, with 95 % intervals. Gap: share lost in open − share lost in choice, in points.",
    keys=1,
)


def compared(results: Results, name: str = "") -> Table:
    """What was compared, and its outcome: a row per arm, pooled over the run's languages. name: of the run."""
    base, data = (str(results.study.get(key, "?")) for key in ("base", "data"))
    rows = []
    for arm in results.arms:
        of = arm_results(results, arm)
        after = of.figure(ACCURACIES[0].measure)
        verdict = results.overall(arm)
        rows.append(
            (
                f"{arm} (reference)" if nulls([arm]) else arm, arm, model_name(base), data, len(results.languages),
                n_of(after), *(of.change(each.measure) for each in (*ACCURACIES, DIFFERENCE)),
                *values(COMPARED, of.figures, arm, POOLED),
                verdict.outcome, verdict.same_passage_outcome,
            )
        )  # fmt: skip
    return Table(
        "runs",
        f"{name}: {_last(base)} on {_last(data)}",
        (
            Column("named", "arm", "text", place="screen"), _filed(ARM), _filed(Column("base", "base", "text")),
            _filed(Column("data", "data", "text")), _filed(Column("languages", "languages", "count")), _filed(N),
            *(of.column() for of in (*ACCURACIES, DIFFERENCE, *COMPARED)), OUTCOME, SAME_PASSAGE,
        ),
        rows,
        (f"excluded on request: {exclusions(results)}",) if results.exclude else (),
    )  # fmt: skip


def runs_file(results: Results) -> Table:
    """What was compared, one row per arm, with its outcome."""
    return in_files(IN_FILES, [("", compared(results))])


def between(results: Results) -> Table:
    """Differences between arms in the gap, in the gap in raw points, and in dissociation, except between null arms."""
    rows = [
        row
        for row in results.diagnosis.between
        if row.scope == POOLED and len(nulls((row.arm, row.other))) < 2
    ]
    found = {(row.arm, row.other, str(row.measure)): row.estimate for row in rows}
    return Table(
        "arms",
        "Arm against arm, first − second (points)",
        (
            Column("first", "first", "text"),
            Column("second", "second", "text"),
            *(of.column() for of in BETWEEN),
        ),
        [
            (*pair, *(found.get((*pair, of.measure)) for of in BETWEEN))
            for pair in dict.fromkeys((row.arm, row.other) for row in rows)
        ],
        keys=2,
    )


def between_file(results: Results) -> Table:
    """Arm against arm in every measure and language."""
    return Table(
        "arm_against_arm",
        "Arm against arm (points)",
        (
            ARM,
            Column("other", "other", "text"),
            Column("measure", "measure", "text"),
            LANGUAGE,
            Column("difference", "arm − other"),
        ),
        [(row.arm, row.other, row.measure, row.scope, row.estimate) for row in results.diagnosis.between],
        ("On the items that both arms answered, in points, with 95 % intervals.",),
        keys=4,
    )


def frontier(results: Results) -> Table:
    """Accuracy against measured sparsity and size on disk, and the frontiers that each arm is on.

    The screen shows what is known, and marks in place of the frontiers' names; null arms, which save nothing, are only
    in the files.
    """
    rows = results.frontier
    shown = [place for place, row in enumerate(rows) if not nulls([row.arm])]
    sparse = any(rows[place].sparsity for place in shown)
    sized = any(rows[place].size_bytes is not None for place in shown)
    notes = []
    if sparse:
        notes.append("◆ no arm is as sparse and better, or as good and sparser")
    if sized:
        notes.append("● no arm is as small and better, or as good and smaller")
    if sparse:
        notes.append("sparsity: of the pruned matrices, as measured")
    known = " and ".join(compress(("sparsity", "size"), (sparse, sized)))
    return Table(
        "frontier",
        f"Accuracy against {known} (%)",
        (
            ARM,
            Column("sparsity", "sparsity", digits=1, place="both" if sparse else "files", full="sparsity (%)"),
            *([Column("size", "size", "bytes", place="screen")] if sized else []),
            _filed(Column("size_bytes", "bytes on disk", "count")),
            *(Column(name, name, full=f"{name} (%)") for name in FORMATS),
            _filed(Column("frontier", "on the frontier of", "text")),
        ),
        [
            (
                row.arm, row.sparsity, *([row.size_bytes] if sized else []), row.size_bytes,
                Marked(row.open, _marks(row.open_frontier and sparse, row.open_size_frontier)),
                Marked(row.choice, _marks(row.choice_frontier and sparse, row.choice_size_frontier)),
                _frontiers(row) or "none",
            )
            for row in rows
        ],
        ("; ".join(notes),) if notes else (),
        on_screen=shown,
    )  # fmt: skip


FRONTIER_FILE = Filed(
    "frontier",
    "Accuracy against sparsity and size on disk",
    "On the frontier: no arm saves as much and is better, or is as good and saves more. Pooled over languages.",
    keys=1,
)


def frontier_file(results: Results) -> Table:
    """What the screen shows, and what it only marks."""
    return in_files(FRONTIER_FILE, [("", frontier(results))])


def _frontiers(row: FrontierRow) -> str:
    flags = {
        "open by sparsity": row.open_frontier,
        "choice by sparsity": row.choice_frontier,
        "open by size": row.open_size_frontier,
        "choice by size": row.choice_size_frontier,
    }
    return ", ".join(name for name, is_on in flags.items() if is_on)


def _marks(sparse: bool | None, small: bool | None) -> str:
    """Marks of the frontiers, each in a fixed position, so that they align in a column."""
    return " " + ("◆" if sparse else " ") + ("●" if small else " ")


def _filed(column: Column) -> Column:
    """The column, for the files alone."""
    return column._replace(place="files")


def _last(name: str) -> str:
    """A model's or a data set's name without its path."""
    return name.rstrip("/").rpartition("/")[2]
