"""`anomia report`: one page that opens from disk, with figures and tables next to it."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomia.cli.app import RunFolders, app, err_console, out_console
from anomia.cli.options import FlagSections, GivenFlags, with_study_options

if TYPE_CHECKING:
    from anomia.measure.results import Results

FORMATS = ("svg", "png", "pdf")


@app.command()
@with_study_options
def report(
    *,
    runs: RunFolders,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; default: report in the folder of the first run.", metavar="DIR"),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    reading: Annotated[GivenFlags, FlagSections("running")],
) -> None:
    """Write the report: index.html (one file, no network), figures and tables.

    Example: anomia report anomia-demo --open
    """
    from anomia.measure.results import read_results
    from anomia.run_folder import ReportFolder, RunFolder, runs_of

    folder = out or RunFolder(runs[0]).report_folder
    cells = [found for run in runs for found in runs_of(run)]
    page = make_report(cells, folder, [read_results(cell, **reading) for cell in cells])
    files = ReportFolder(folder)
    out_console.print(f"figures: {files.figures}   tables: {files.tables}", highlight=False, soft_wrap=True)
    if open_page and not webbrowser.open(page.resolve().as_uri()):
        err_console.print("no browser could be started; open the page by hand", highlight=False)


def make_report(runs: Sequence[Path], folder: Path, results: Sequence[Results] | None = None) -> Path:
    """Write the report of some runs; print and return the path of its page."""
    from anomia.report.page.build import write_report

    with err_console.status("drawing the report"):
        done = write_report(runs, folder, results=results, formats=FORMATS)
    out_console.print(f"report: {done.page}", highlight=False, soft_wrap=True)
    if done.omitted:
        out_console.print(
            f"to keep the page small, {' and '.join(done.omitted)} are not in it; "
            f"anomia view {runs[0]} shows them",
            highlight=False,
            soft_wrap=True,
        )
    return done.page
