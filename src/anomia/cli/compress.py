"""`anomia compress`: compress a model into a new folder with any chain of steps."""

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


@app.command()
@with_folder_options
def compress(
    *,
    model: ModelArgument,
    out: OutArgument,
    arm: Annotated[
        str,
        typer.Argument(
            help="Steps separated by +, such as wanda:0.5+update+gptq:4; docs/compression.md lists the methods.",
            metavar="STEPS",
        ),
    ],
    how: How,
) -> None:
    """Compress a model into a new folder: prune it, drop parts of it, quantize it, or chain several of these steps.

    The result is an ordinary folder that transformers loads.

    Example: anomia compress Qwen/Qwen3-0.6B smaller wanda:0.5+update
    """
    from anomia.compress.folder import compress_folder
    from anomia.compress.report import megabytes, summary
    from anomia.compress.spec import parse_arm
    from anomia.running.progress import stage_counter

    with progress_display() as progress:
        report = compress_folder(
            model,
            out,
            parse_arm(arm).steps,
            with_answers(model, out, folder_options(how), progress),
            progress=stage_counter(progress, f"compressing: {arm}"),
        )
        for step in report.steps:
            for warning in step.warnings:
                progress.say(f"{step.step}: {warning}")
    for step in report.steps:
        out_console.print(f"{step.step}: {summary(step)}", highlight=False, soft_wrap=True)
    size = report.compression.size_bytes or 0
    out_console.print(f"{out}: {megabytes(size)}, {report.seconds:.0f} s", highlight=False, soft_wrap=True)
    print_perplexity(report, "compressed")
