"""`anomia compare`: the full diagnosis of a model and its compressed versions."""

from __future__ import annotations

from typing import Annotated

import typer

from anomia.cli.app import app
from anomia.cli.options import FlagSections, GivenFlags, with_study_options
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
            metavar="COMPRESSED",
        ),
    ],
    what: Annotated[GivenFlags, FlagSections("questions", "machine", "chat", "draw")],
    how: Annotated[GivenFlags, FlagSections("running")],
    code: Annotated[GivenFlags, FlagSections("code")],
) -> None:
    """Compare a model with its compressed versions: did they lose the knowledge, or only the words?

    Example: anomia compare Qwen/Qwen3-0.6B ./my-pruned-qwen
    """
    from anomia.compress.spec import arm_of
    from anomia.matrix import read_matrix

    settings = {"base": base, "arms": [arm_of(text) for text in compressed], **what, **code}
    if settings.get("data", "demo") == "demo":
        settings.setdefault("languages", list(DEMO_LANGUAGES))
    execute("compare", read_matrix(None, settings), **how)
