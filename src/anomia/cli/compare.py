"""`anomia compare`: two checkpoints in, the full diagnosis out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import AsPackaged, Exclude, app, excluded, names, whole
from anomia.cli.run import execute

DEMO_LANGUAGES = ("english", "russian", "swahili", "indonesian")


@app.command()
def compare(
    base: Annotated[
        str,
        typer.Argument(help="The uncompressed model: a hub id, a folder or a .gguf file.", metavar="BASE"),
    ],
    compressed: Annotated[
        list[str],
        typer.Argument(
            help="What was made of it: hub ids, folders, .gguf files, or endpoint:URL#MODEL.",
            metavar="COMPRESSED...",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="The questions: tydiqa, xquad, mlqa, squad, belebele (from the hub), squad:PATH, mc:PATH, "
            "jsonl:FILE, or the shipped demo.",
            metavar="DATA",
        ),
    ] = "demo",
    languages: Annotated[
        str | None,
        typer.Option(help="Names or codes with commas; default: all, of the demo four.", metavar="A,B"),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items a language (default 200).", metavar="N")] = None,
    out: Annotated[
        Path, typer.Option(help="The folder of the run; given again, it is resumed.", metavar="RUN")
    ] = Path("anomia-compare"),
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps, or map: layers over all GPUs.")
    ] = None,
    batch_size: Annotated[str | None, typer.Option(help="auto, or items a batch.", metavar="auto|N")] = None,
    chat: Annotated[bool | None, typer.Option("--chat", help="Use the tokenizer's chat template.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the choice of items and the samples (default 42).")
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="A margin of the verdicts, as hold=0.05; once for each.", metavar="NAME=VALUE"),
    ] = None,
    as_packaged: AsPackaged = False,
    exclude: Exclude = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier run that base's measurement is taken from, if it is the same."),
    ] = None,
    trust_remote_code: Annotated[
        bool | None, typer.Option("--trust-remote-code", help="Run code that a model's repository brings.")
    ] = None,
) -> None:
    """Compare a model with what somebody made of it: what was lost, the knowledge or the words?

    Example: anomia compare Qwen/Qwen3-0.6B ./my-pruned-qwen
    """
    from anomia.compress.spec import arm_of
    from anomia.matrix import read_matrix, with_packaged
    from anomia.measure.verdict import read_thresholds

    margins = read_thresholds(threshold) if threshold else None
    settings = {
        "base": base,
        "arms": [arm_of(text) for text in compressed],
        "data": data,
        "languages": names(languages) or (list(DEMO_LANGUAGES) if data == "demo" else None),
        "limit": limit,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size if batch_size in (None, "auto") else whole(batch_size),
        "chat": chat,
        "seed": seed,
        "trust_remote_code": trust_remote_code,
    }
    matrix = read_matrix(None, {key: value for key, value in settings.items() if value is not None})
    if as_packaged:
        matrix = with_packaged(matrix)
    execute(matrix, out, margins, exclude=excluded(exclude), reuse=reuse or ())
