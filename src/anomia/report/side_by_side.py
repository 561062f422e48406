"""Several runs side by side: other models, sizes, data sets or calibration texts (paper, Figures 5 to 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape

from anomia.measure.evidence import OVERALL
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.report.page.facts import left_out
from anomia.report.reference import nulls
from anomia.report.sheet import add_column, change, interval, new_table, note, sheet


def side_by_side(runs: Sequence[tuple[Path, Results]]) -> RenderableType:
    """A table for each run, all alike, with one row for each arm, pooled over the run's languages."""
    parts: list[RenderableType] = [note("\nRuns side by side, pooled over languages (%)")]
    for path, results in runs:
        base, data = (escape(_last(str(results.study.get(key, "?")))) for key in ("base", "data"))
        table = new_table(f"{escape(path.name)}: {base} on {data}")
        for header in (
            "arm",
            "open",
            "choice",
            "choice −\nopen",
            "gap to\nchoice",
            "in raw\npoints",
            "disso-\nciation",
            "net",
            "outcome",
        ):
            add_column(table, header)
        for arm in results.arms:
            named = f"{escape(arm)} (reference)" if nulls([arm]) else escape(arm)
            table.add_row(named, *_row(results, arm))
        words = f"left out on request: {left_out(results)}" if results.exclude else ""
        parts.append(sheet(table, words))
    return Group(*parts, note("items and languages differ from run to run unless their studies say the same"))


def _row(results: Results, arm: str) -> list[str]:
    figures = lookup(results.diagnosis.figures)
    changes = [
        change(figures, arm, f"accuracy/{probe}", POOLED) for probe in ("open", "choice", "choice_minus_open")
    ]
    measures = ("gap/choice", "raw_gap/choice", "dissociation/choice", "net_dissociation/choice")
    cells = [interval(figures.get((arm, measure, POOLED))) for measure in measures]
    outcome = next(v.decision.outcome for v in results.verdicts if (v.arm, v.scope) == (arm, OVERALL))
    return [*changes, *cells, outcome]


def _last(name: str) -> str:
    """A model's or a data set's name without the way to it."""
    return name.rstrip("/").rpartition("/")[2]
