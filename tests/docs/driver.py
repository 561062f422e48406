"""Runs commands one after the other in one process, in a folder of its own for each page."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback

from anomia.cli import main


def run(words: list[str]) -> tuple[int, str]:
    """Exit code, and all that was said."""
    said = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else int(bool(stopped.code))
        except BaseException:
            return -1, said.getvalue() + traceback.format_exc()
    return code, said.getvalue()


if __name__ == "__main__":
    done = []
    for folder, words in json.load(sys.stdin):
        os.chdir(folder)
        done.append(run(words))
    json.dump(done, sys.__stdout__)
