"""`anomia prune`: prune a model into a new folder."""

from __future__ import annotations

from typing import Annotated

import typer

from anomia.cli.app import app, out_console, progress_display
from anomia.cli.compress_options import (
    How,
    ModelArgument,
    OutArgument,
    folder_options,
    print_perplexity,
    with_answers,
    with_folder_options,
)
from anomia.compress.catalogue import MethodKind, methods

PRUNING_METHODS = methods(MethodKind.PRUNE)


@app.command()
@with_folder_options
def prune(
    *,
    model: ModelArgument,
    out: OutArgument,
    method: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(PRUNING_METHODS)}; mwanda and prunerzero are reconstructions from their papers.",
            metavar="NAME",
        ),
    ] = "wanda",
    sparsity: Annotated[
        float | None, typer.Option(help="Share of weights that become zero (default 0.5).", metavar="SHARE")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="N:M instead of a sparsity, such as 2:4: at most N of every M weights stay.", metavar="N:M"
        ),
    ] = None,
    allocation: Annotated[
        str,
        typer.Option(help="uniform, or owl: blocks with more outliers keep more weights.", metavar="NAME"),
    ] = "uniform",
    how: How,
) -> None:
    """Prune a model into a new folder: a shortcut for anomia compress with one pruning step.

    One block is in memory at a time. The result is a dense model with zeros; these make it neither smaller nor faster.
    """
    from anomia.compress.folder import compress_folder
    from anomia.compress.report import megabytes, told_error, told_kept
    from anomia.compress.spec import parse_arm
    from anomia.compress.steps import Prune
    from anomia.errors import StudyError, nearest
    from anomia.running.progress import stage_counter
    from anomia.words import counted

    if sparsity is not None and pattern is not None:
        raise StudyError("prune: give --sparsity or --pattern, not both")
    if method not in PRUNING_METHODS:
        raise StudyError(f"prune: {method!r} is not a pruning method; {nearest(method, PRUNING_METHODS)}")
    amount = pattern or str(0.5 if sparsity is None else sparsity)
    step = parse_arm(
        f"{method}:{amount}" + (f",allocation={allocation}" if allocation != "uniform" else "")
    ).steps[0]
    assert isinstance(step, Prune)
    with progress_display() as progress:
        report = compress_folder(
            model,
            out,
            [step],
            with_answers(model, out, folder_options(how), progress),
            progress=stage_counter(progress, f"pruning: {step}"),
        )
        for warning in report.compression.warnings:
            progress.say(warning)
    done = report.compression
    out_console.print(
        f"{out}: {done.sparsity:.1%} of the weights of {counted(len(done.matrices), 'matrix', 'matrices')} are "
        f"zero{told_kept(done)}{told_error(done)} ({step}, {report.seconds:.0f} s). It is an ordinary dense model of "
        f"{megabytes(done.size_bytes or 0)}: zeros alone make it neither smaller nor faster.",
        highlight=False,
        soft_wrap=True,
    )
    print_perplexity(report, "pruned")
