"""`anomia compare`: the full diagnosis of a model and its compressed versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import AsPackaged, Exclude, app, excluded
from anomia.cli.options import Options, Settings, with_study_options
from anomia.cli.run import DEMO_LANGUAGES, execute


@app.command()
@with_study_options
def compare(
    *,
    base: Annotated[
        str,
        typer.Argument(help="The uncompressed model: a hub id, a folder or a .gguf file.", metavar="BASE"),
    ],
    compressed: Annotated[
        list[str],
        typer.Argument(
            help="Its compressed versions: hub ids, folders, .gguf files, or endpoint:URL#MODEL.",
            metavar="COMPRESSED...",
        ),
    ],
    what: Annotated[Settings, Options("questions")],
    out: Annotated[
        Path, typer.Option(help="The run folder; an existing run is resumed.", metavar="RUN")
    ] = Path("anomia-compare"),
    how: Annotated[Settings, Options("machine", "chat", "draw")],
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="A margin of the verdicts, such as hold=0.05; repeatable.", metavar="NAME=VALUE"),
    ] = None,
    as_packaged: AsPackaged = False,
    exclude: Exclude = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(help="An earlier run; its measurement of base is reused where nothing differs."),
    ] = None,
    code: Annotated[Settings, Options("code")],
) -> None:
    """Compare a model with its compressed versions: did they lose the knowledge, or only the words?

    Example: anomia compare Qwen/Qwen3-0.6B ./my-pruned-qwen
    """
    from anomia.compress.spec import arm_of
    from anomia.matrix import read_matrix, with_packaged
    from anomia.measure.verdict import read_thresholds

    margins = read_thresholds(threshold) if threshold else None
    settings = {"base": base, "arms": [arm_of(text) for text in compressed], **what, **how, **code}
    if settings.get("data", "demo") == "demo":
        settings.setdefault("languages", list(DEMO_LANGUAGES))
    matrix = read_matrix(None, settings)
    if as_packaged:
        matrix = with_packaged(matrix)
    execute(matrix, out, margins, exclude=excluded(exclude), reuse=reuse or ())
