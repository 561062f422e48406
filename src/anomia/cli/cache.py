"""`anomia cache`: the converted and downloaded files kept between runs."""

from __future__ import annotations

from typing import Annotated

import typer

from anomia.cli.app import app, out_console


@app.command()
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove the converted models, or only NAME.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Argument(
            help="With --clear: the one entry to remove; downloads can be removed by name, too.",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """List cached conversions and downloads, or clear them.

    Example: anomia cache --clear Qwen/Qwen3-0.6B
    """
    from anomia.cache import clear as remove
    from anomia.cache import kept
    from anomia.errors import RunError
    from anomia.report.render.terminal import view
    from anomia.report.tables.table import Column, Table

    if name is not None and not clear:
        raise RunError(f"cache: to remove {name}, run anomia cache --clear {name}")
    entries = remove(name) if clear else kept()
    columns = (
        Column("what", "what", "text"), Column("name", "name", "text"), Column("megabytes", "MB", "number", 0),
        Column("where", "where", "text"),
    )  # fmt: skip
    rows = [(entry.kind, entry.name, entry.size / 1e6, str(entry.path)) for entry in entries]
    if entries:
        out_console.print(view(Table("kept", "Removed" if clear else "Kept on disk", columns, rows)))
    else:
        out_console.print("there are no converted models to remove" if clear else "the cache is empty")
