"""`anomia repair`: new values for the weights that pruning kept, at equal zeros."""

from __future__ import annotations

from typing import Annotated

import typer

from anomia.cli.app import app, out_console, progress_display
from anomia.cli.compress_options import (
    How,
    OutArgument,
    folder_options,
    print_perplexity,
    with_answers,
    with_folder_options,
)


@app.command()
@with_folder_options
def repair(
    *,
    base: Annotated[
        str, typer.Argument(help="The model before pruning: a hub id or a folder.", metavar="BASE")
    ],
    compressed: Annotated[
        str,
        typer.Argument(help="The same model after pruning: a hub id or a folder.", metavar="COMPRESSED"),
    ],
    out: OutArgument,
    guided: Annotated[
        bool,
        typer.Option(
            "--guided",
            help="Weight tokens by how much the final loss depends on them; loads both models whole.",
        ),
    ] = False,
    train: Annotated[
        int,
        typer.Option(
            min=0, help="Then train each block's kept weights for N epochs; 0 leaves it out.", metavar="N"
        ),
    ] = 0,
    regrow: Annotated[
        bool,
        typer.Option(
            "--regrow",
            help="Leave out least squares; swap pruned weights that the final loss misses for kept ones that it needs "
            "least. Loads both models whole.",
        ),
    ] = False,
    distill: Annotated[
        int,
        typer.Option(
            min=0,
            help="Last, train all kept weights towards base's output probabilities for N epochs; loads both models "
            "whole; 0 leaves it out.",
            metavar="N",
        ),
    ] = 0,
    how: How,
) -> None:
    """Repair a pruned model: give the weights that it kept the values with which it acts most like base.

    The zeros stay where they are and no parameter is added; OUT is an ordinary folder. Calibrate on base's own
    answers to prompts like those that the model will be asked, and measure on others.

    Example: anomia repair Qwen/Qwen3-0.6B ./pruned ./repaired --calibration answers:prompts:prompts.jsonl
    """
    from anomia.compress.folder import compress_folder
    from anomia.compress.report import megabytes, summary
    from anomia.compress.spec import parse_arm
    from anomia.compress.steps import escape
    from anomia.errors import StudyError
    from anomia.running.progress import stage_counter

    if regrow and (guided or train):
        raise StudyError(
            "repair: --regrow swaps weights as pruning left them and leaves out least squares and training per block; "
            "leave out --guided and --train, or repair its OUT in a second call"
        )
    with progress_display() as progress:
        report = compress_folder(
            base,
            out,
            parse_arm(
                f"taken:{escape(compressed)}"
                + ("+regrow" if regrow else "+repair,guided=yes" if guided else "+repair")
                + (f"+train,epochs={train}" if train else "")
                + (f"+distill,epochs={distill}" if distill else "")
            ).steps,
            with_answers(base, out, folder_options(how), progress),
            progress=stage_counter(progress, f"repairing {compressed}"),
        )
        for warning in report.compression.warnings:
            progress.say(warning)
    done = report.compression
    out_console.print(summary(done), highlight=False, soft_wrap=True)
    size = megabytes(done.size_bytes or 0)
    out_console.print(f"{out}: {size}, {report.seconds:.0f} s", highlight=False, soft_wrap=True)
    print_perplexity(report, "repaired")
