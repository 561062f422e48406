"""The program, called in this process."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

from anomia.cli import main


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def anomia(*arguments: str | Path) -> Done:
    """Calls the program in this process, which spares the seconds that importing takes."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
    return Done(code, out.getvalue(), err.getvalue())
