"""`anomia push`: publish a run as a data set, on the hub or in a folder."""

from __future__ import annotations

from typing import Annotated

import typer

from anomia.cli.app import RunFolderArgument, app, out_console
from anomia.cli.report import make_report


@app.command()
def push(
    run: RunFolderArgument,
    target: Annotated[
        str, typer.Argument(help="hub:OWNER/NAME, or a new folder.", metavar="hub:NAME|FOLDER")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new hub repository private.")] = False,
) -> None:
    """Share a run's records and report as a Hugging Face data set with a card.

    Example: anomia push RUN hub:me/my-study
    """
    from anomia.report.share import push_run
    from anomia.run_folder import ReportFolder, RunFolder, runs_of

    report = RunFolder(run).report_folder
    if not ReportFolder(report).page.is_file():
        make_report(runs_of(run), report)
    out_console.print(push_run(run, target, private=private), highlight=False, soft_wrap=True)
