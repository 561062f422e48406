"""The options that `anomia compress` and `anomia prune` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="A hub id, a folder or a .gguf file.", metavar="MODEL")]
Out = Annotated[Path, typer.Argument(help="The new folder; an unfinished one is resumed.", metavar="OUT")]
Source = Annotated[str, typer.Option(help="c4, demo, wikipedia:LANGUAGE, balanced or file:PATH.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Passages of it (default 128).")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens a passage.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="A folder with c4.en.jsonl and wikipedia/LANGUAGE.jsonl, looked through before the hub."
    ),
]
Budget = Annotated[int | None, typer.Option(min=1, help="Tokens in all.")]
Languages = Annotated[str | None, typer.Option(help="Languages of balanced calibration.", metavar="A,B")]
Dtype = Annotated[str, typer.Option(help="auto (as stored), float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="Where the block in work is computed: cpu, cuda, mps or auto.")]
Text = Annotated[
    Path | None,
    typer.Option(help="A text file on which dense and compressed model are compared.", metavar="FILE"),
]
TextTokens = Annotated[int | None, typer.Option(min=2, help="Only so many tokens of it (default all).")]
