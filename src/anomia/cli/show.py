"""`anomia show`: the tables of one run, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from anomia.cli.app import Exclude, app, excluded, out_console
from anomia.files import place


@app.command()
def show(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="The folder of a run; several are shown side by side.", metavar="RUN...", parser=place
        ),
    ],
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="A margin of the verdicts, such as hold=0.05; repeatable.", metavar="NAME=VALUE"),
    ] = None,
    exclude: Exclude = None,
) -> None:
    """Show the verdicts and all tables of a run; of several runs, one table."""
    from anomia.measure.results import read_results
    from anomia.measure.verdict import read_thresholds
    from anomia.report.terminal import side_by_side
    from anomia.run_folder import runs_of

    margins = read_thresholds(threshold) if threshold else None
    kinds = excluded(exclude)
    found = [
        (run, read_results(run, thresholds=margins, exclude=kinds))
        for folder in runs
        for run in runs_of(folder)
    ]
    if len(found) == 1:
        show_run(found[0][1])
    else:
        out_console.print(side_by_side(found))


def show_run(results: Any) -> None:
    """Print every table of a run."""
    from anomia.report.reference import candidates
    from anomia.report.terminal import closing_view, run_view

    for arm in candidates(results.arms):
        out_console.print(run_view(results, arm))
    out_console.print(closing_view(results))
    show_notes(results)
    for arm, reason in results.failed.items():
        out_console.print(f"{arm}: not measured: {reason}", markup=False, highlight=False)


def show_notes(results: Any) -> None:
    """Print the notes on the measured arms, and the number of broken items."""
    for arm, notes in results.notes.items():
        for note in notes:
            out_console.print(f"{arm}: {note}", markup=False, highlight=False)
    for arm, count in results.broken.items():
        out_console.print(
            f"{arm}: broken: logits that are NaN or infinite for {count} items", markup=False, highlight=False
        )
