"""Several runs in one table: other models, sizes, data sets or calibration texts (paper, Figures 5 to 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType

from anomia.measure.evidence import OVERALL
from anomia.measure.figures import before, lookup
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.report.tables import add_column, interval, new_table, note, percent


def side_by_side(runs: Sequence[tuple[Path, Results]]) -> RenderableType:
    """One row for each arm of each run, pooled over its languages."""
    table = new_table("Runs side by side, pooled over languages (%)")
    for header in (
        "run", "base", "data", "arm", "open", "choice", "choice −\nopen", "gap to\nchoice", "disso-\nciation", "outcome",
    ):  # fmt: skip
        add_column(table, header)
    # Cells of one study differ at the end of their names.
    table.columns[0].overflow = "fold"
    for path, results in runs:
        figures = lookup(results.diagnosis.figures)
        for place, arm in enumerate(results.arms):
            changes = [
                f"{percent(before(figures, arm, f'accuracy/{probe}', POOLED))} → "
                f"{percent(figures.get((arm, f'accuracy/{probe}', POOLED)))}"
                for probe in ("open", "choice", "choice_minus_open")
            ]
            cells = [figures.get((arm, measure, POOLED)) for measure in ("gap/choice", "dissociation/choice")]
            outcome = next(v.decision.outcome for v in results.verdicts if (v.arm, v.scope) == (arm, OVERALL))
            names = (path.name, _last(results.study["base"]), _last(results.study["data"]))
            table.add_row(
                *(names if place == 0 else ("", "", "")),
                arm,
                *changes,
                *(interval(cell) if cell else "–" for cell in cells),
                outcome,
                end_section=place == len(results.arms) - 1,
            )
    return Group(table, note("items and languages differ from run to run unless their studies say the same"))


def _last(name: str) -> str:
    """A model's or a data set's name without the way to it."""
    return name.rstrip("/").rpartition("/")[2]
