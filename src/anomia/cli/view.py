"""`anomia view`: serve the report of a run that is too large to embed in one page."""

from __future__ import annotations

from typing import Annotated

import typer

from anomia.cli.app import RunFolderArgument, app, err_console, out_console

PACKAGES = ("duckdb", "starlette", "uvicorn")


@app.command()
def view(
    run: RunFolderArgument,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.", metavar="PORT")
    ] = 0,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; with any but 127.0.0.1, other machines can connect.",
            metavar="ADDRESS",
        ),
    ] = "127.0.0.1",
) -> None:
    """Serve the report with every item of a run, however large, until Ctrl-C."""
    from importlib.util import find_spec

    from anomia.errors import MissingExtraError

    for package in PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package, "view")
    from anomia.report.server import serve

    def ready(address: str) -> None:
        out_console.print(f"{address}\npress Ctrl-C to stop", highlight=False, soft_wrap=True)

    if host not in ("127.0.0.1", "localhost", "::1"):
        err_console.print(
            f"others who reach {host} and know the address can read this run", highlight=False, style="yellow"
        )
    try:
        serve(run, host=host, port=port, ready=ready)
    except KeyboardInterrupt:
        err_console.print("ended", highlight=False)
