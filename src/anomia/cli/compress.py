"""`anomia compress`: one model into a new folder, with any chain of steps."""

from __future__ import annotations

from typing import Annotated

import typer

from anomia.cli.app import app, out_console, progress_display
from anomia.cli.compress_options import (
    Budget,
    Device,
    Dtype,
    Folder,
    Languages,
    Model,
    Out,
    Samples,
    Source,
    Text,
    TextTokens,
    Tokens,
)
from anomia.flags import names


@app.command()
def compress(
    model: Model,
    out: Out,
    arm: Annotated[
        str,
        typer.Argument(
            help="Steps as `anomia run` takes them: wanda:0.5+update, gptq:4, shortgpt:0.25.", metavar="STEPS"
        ),
    ],
    save_as: Annotated[
        str,
        typer.Option(
            help="dense, or how a last gptq or awq step is stored: compressed-tensors.",
            metavar="STORAGE",
        ),
    ] = "dense",
    calibration: Source = "c4",
    calibration_samples: Samples = None,
    calibration_tokens: Tokens = 2048,
    calibration_folder: Folder = None,
    calibration_budget: Budget = None,
    languages: Languages = None,
    dtype: Dtype = "auto",
    device: Device = "cpu",
    perplexity: Text = None,
    perplexity_tokens: TextTokens = None,
) -> None:
    """Compress a model into a new folder: prune it, drop parts of it, quantize it, or several in a row.

    What is written is an ordinary folder that transformers loads.

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
            save_as=save_as,  # type: ignore[arg-type]
            calibration=calibration,
            samples=calibration_samples,
            tokens=calibration_tokens,
            budget=calibration_budget,
            data_dir=calibration_folder,
            languages=names(languages or ""),
            dtype=dtype,
            device=device,
            perplexity_text=perplexity,
            perplexity_tokens=perplexity_tokens,
            progress=stage_counter(progress, f"compressing: {arm}"),
        )
        for step in report.steps:
            for warning in step.warnings:
                progress.say(f"{step.step}: {warning}")
    for step in report.steps:
        out_console.print(f"{step.step}: {summary(step)}", highlight=False, soft_wrap=True)
    size = report.compression.size_bytes or 0
    out_console.print(f"{out}: {megabytes(size)}, {report.seconds:.0f} s", highlight=False, soft_wrap=True)
    if report.dense and report.compressed:
        out_console.print(
            f"perplexity: {report.dense.value:.2f} dense, {report.compressed.value:.2f} compressed",
            highlight=False,
        )
