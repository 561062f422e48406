"""`anomia diff`: differences between two models, apart from the values of their weights."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from anomia.cli.app import app, out_console
from anomia.cli.options import FlagSections, GivenFlags, with_study_options


@app.command()
@with_study_options
def diff(
    *,
    base: Annotated[
        str, typer.Argument(help="The base model: a hub id, a folder or a .gguf file.", metavar="BASE")
    ],
    compressed: Annotated[
        str, typer.Argument(help="The compressed model, in one of the same forms.", metavar="COMPRESSED")
    ],
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Whether prompts will go through the chat template; default: both are compared, with and without it.",
        ),
    ] = None,
    hash_weights: Annotated[
        bool,
        typer.Option("--hash-weights", help="Also read the weight files, to see whether they are the same."),
    ] = False,
    code: Annotated[GivenFlags, FlagSections("code")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead.")] = False,
) -> None:
    """Show what differs between two models besides the weights; exits with 1 if any difference would confound the
    comparison.

    Loads no weights. A difference is confounding (changes answers, but isn't compression), noted (worth knowing) or
    harmless.

    Example: anomia diff Qwen/Qwen3-0.6B ./my-pruned-qwen
    """
    from anomia.models.describe import describe
    from anomia.models.diff import differences, worst
    from anomia.report.render.terminal import note, view
    from anomia.report.tables.packaging import differences as table

    revision = code.get("revision")
    mine, theirs = (
        describe(
            name,
            revision=revision if name == base else None,
            base=None if name == base else base,
            base_revision=revision,
            trust_remote_code=code.get("trust_remote_code", False),
            hash_weights=hash_weights,
        )
        for name in (base, compressed)
    )
    found = differences(mine, theirs, chat=chat)
    if as_json:
        found_json = {
            "equal": not found,
            "worst": worst(found),
            "differences": [each._asdict() for each in found],
            "base": mine.as_json(),
            "compressed": theirs.as_json(),
        }
        typer.echo(json.dumps(found_json, ensure_ascii=False, indent=2))
    else:
        same = note(f"no differences between {base} and {compressed}")
        out_console.print(view(table(base, compressed, found)) if found else same)
    if worst(found) == "confounding":
        raise typer.Exit(1)
