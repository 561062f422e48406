"""`anomia show`: the tables of one run, or of several side by side."""

from __future__ import annotations

from typing import Annotated, Any

from anomia.cli.app import RunFolders, app, out_console
from anomia.cli.options import FlagSections, GivenFlags, with_study_options


@app.command()
@with_study_options
def show(*, runs: RunFolders, reading: Annotated[GivenFlags, FlagSections("running")]) -> None:
    """Show the verdicts and all tables of a run; of several runs, one table."""
    from anomia.measure.results import read_results
    from anomia.report.terminal import side_by_side
    from anomia.run_folder import runs_of

    found = [(run, read_results(run, **reading)) for folder in runs for run in runs_of(folder)]
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
