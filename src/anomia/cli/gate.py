"""`anomia gate`: decide whether compressed models pass, as an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import RunFolders, app, out_console
from anomia.cli.options import FlagSections, GivenFlags, with_study_options


@app.command()
@with_study_options
def gate(
    *,
    runs: RunFolders,
    max_dissociation: Annotated[
        float | None,
        typer.Option(
            help="Largest net dissociation: of what base gets right in both formats, the share that is now only "
            "picked. "
            "Items that went the other way are subtracted. [0.15]",
            metavar="SHARE",
        ),
    ] = None,
    max_gap: Annotated[
        float | None,
        typer.Option(
            help="Largest gap: the share lost in open answers minus the share lost in multiple choice. [0.20]",
            metavar="SHARE",
        ),
    ] = None,
    min_open_retained: Annotated[
        float | None,
        typer.Option(
            help="Smallest share of base's open accuracy that must be kept. [0.85]", metavar="SHARE"
        ),
    ] = None,
    max_shown_loss: Annotated[
        float | None,
        typer.Option(
            help="Largest share of open accuracy that may be lost, where the loss is significant (its interval "
            "excludes 0). "
            "[0.05]",
            metavar="SHARE",
        ),
    ] = None,
    max_more_unended: Annotated[
        float | None,
        typer.Option(
            help="Largest increase over base in the share of long answers (probe continuation) that never end.",
            metavar="SHARE",
        ),
    ] = None,
    max_more_loops: Annotated[
        float | None,
        typer.Option(
            help="Largest increase over base in the share of long answers that loop.", metavar="SHARE"
        ),
    ] = None,
    min_same_format: Annotated[
        float | None,
        typer.Option(
            help="Smallest share of long answers in base's format: JSON, code, table, list or prose.",
            metavar="SHARE",
        ),
    ] = None,
    min_same_language: Annotated[
        float | None,
        typer.Option(help="Smallest share of long answers in base's language.", metavar="SHARE"),
    ] = None,
    max_score_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest drop of a task's score (translation, summaries, …): base's mean minus the arm's, from 0 to "
            "1.",
            metavar="SHARE",
        ),
    ] = None,
    by_language: Annotated[
        bool, typer.Option("--by-language", help="Also require every language to pass.")
    ] = False,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; repeatable.", metavar="ARM")] = None,
    reading: Annotated[GivenFlags, FlagSections("running")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole decision as JSON instead of the summary.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.", metavar="FILE")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            help="Append the Markdown summary to this file, as $GITHUB_STEP_SUMMARY.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Check compressed models (arms) against limits by their intervals. Exit codes: 0 pass, 1 fail, 2 bad input, 3
    undecided.

    Without limits, those with a value in brackets apply; if you give any, only those are checked.
    """
    from anomia.measure.gate import EXIT_CODES, check_run, overall, read_limits
    from anomia.measure.results import read_results
    from anomia.report import gate_report
    from anomia.run_folder import runs_of

    limits = read_limits(
        max_dissociation,
        max_gap,
        min_open_retained,
        max_shown_loss,
        max_more_unended=max_more_unended,
        max_more_loops=max_more_loops,
        min_same_format=min_same_format,
        min_same_language=min_same_language,
        max_score_drop=max_score_drop,
    )
    cells = [cell for run in runs for cell in runs_of(run)]
    short = [cell.name for cell in cells]
    read = [
        # Folders with the same name are shown with their path.
        (cell.name if short.count(cell.name) == 1 else str(cell), read_results(cell, **reading))
        for cell in cells
    ]
    found = [(name, check_run(results, limits, by_language=by_language, arms=arm)) for name, results in read]
    bases = {name: gate_report.basis(results) for name, results in read}
    result = overall([each.result for _, each in found])
    text = "\n".join(gate_report.markdown(each, name=name, basis=bases[name]) for name, each in found)
    if as_json:
        decision = gate_report.decision_json(found, result, EXIT_CODES[result], bases)
        typer.echo(json.dumps(decision, ensure_ascii=False, indent=2))
    else:
        out_console.print(text, markup=False, highlight=False, soft_wrap=True)
    if summary is not None:
        gate_report.write_report(summary, text, append=True)
    if junit is not None:
        gate_report.write_report(junit, gate_report.junit(found, bases))
    if EXIT_CODES[result]:
        raise typer.Exit(EXIT_CODES[result])
