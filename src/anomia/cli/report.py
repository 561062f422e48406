"""`anomia report`: one page that opens from disk, with figures and tables beside it."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import app, err_console, out_console


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="The folder of a run; several come into one report.", metavar="RUN..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write; default: RUN/report, of the first run.", metavar="DIR"),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write the report: index.html (one file, no network), figures and tables.

    Example: anomia report anomia-demo --open
    """
    from anomia.report.page.build import write_report

    folder = out or runs[0] / "report"
    with err_console.status("drawing the report"):
        done = write_report(runs, folder)
    out_console.print(f"report: {done.page}", highlight=False, soft_wrap=True)
    out_console.print(
        f"figures: {folder / 'figures'}   tables: {folder / 'tables'}", highlight=False, soft_wrap=True
    )
    if done.left_out:
        out_console.print(
            f"to keep the page small it has no {', '.join(done.left_out)} of single items; anomia view {runs[0]} shows them",
            highlight=False,
            soft_wrap=True,
        )
    if open_page and not webbrowser.open(done.page.resolve().as_uri()):
        err_console.print("no browser could be started; open the page by hand", highlight=False)
