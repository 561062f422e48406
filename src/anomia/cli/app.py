"""The Typer application, and what all commands share: consoles, progress, common options."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from anomia._version import __version__
from anomia.files import place

if TYPE_CHECKING:
    from anomia.running.progress import Progress


# The order in which a new user needs the commands; any others come last.
ORDER = (
    "demo",
    "diff",
    "compare",
    "run",
    "show",
    "items",
    "report",
    "view",
    "locate",
    "gate",
    "compress",
    "prune",
    "repair",
    "answers",
    "plan",
    "import",
    "export",
    "push",
    "cache",
)


class Commands(TyperGroup):
    """Lists the commands in `ORDER`, and shows no Python types in `--help`: a value's metavar says what it is."""

    def get_params(self, ctx: Any) -> Any:
        """The group's own options."""
        return _without_types(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _without_types(command.params if ctx is None else command.get_params(ctx))
        return command

    def list_commands(self, ctx: Any) -> list[str]:
        """The command names, sorted for `--help`."""
        found = super().list_commands(ctx)
        return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _without_types(params: Any) -> Any:
    for param in params:
        if param.param_type_name == "argument" or param.metavar is None:
            # The name of an argument is its metavar, and a switch takes no value.
            param.display_type_rich = lambda ctx: None
    return params


app = typer.Typer(
    cls=Commands,
    name="anomia",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Without a terminal, rich assumes 80 columns, which is too narrow for the tables.
out_console = Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=110)
err_console = Console(stderr=True)


def _version(value: bool) -> None:
    if value:
        out_console.print(f"anomia {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Finds out what compression took from a language model: the knowledge, or only the words.

    Base is the uncompressed model; an arm is a model compared with it.
    """


RunFolderArgument = Annotated[Path, typer.Argument(help="The folder of a run.", metavar="RUN", parser=place)]
RunFolders = Annotated[
    list[Path], typer.Argument(help="The folder of a run, or several.", metavar="RUN", parser=place)
]


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Show bars in a terminal, lines elsewhere. Ctrl-C prints how to resume and exits with code 130."""
    from anomia.running.progress import PlainProgress, RichProgress

    try:
        with RichProgress(err_console) if err_console.is_terminal else PlainProgress() as progress:
            yield progress
    except KeyboardInterrupt:
        err_console.print("stopped; run the same command again to resume", highlight=False)
        raise typer.Exit(130) from None
