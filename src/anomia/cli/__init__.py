"""The command line, one module per command. It is thin: decisions are made elsewhere."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anomia.cli import (
    answers,
    cache,
    compare,
    compress,
    diff,
    gate,
    import_,
    items,
    locate,
    plan,
    prune,
    push,
    repair,
    report,
    run,
    show,
    view,
)
from anomia.cli.app import app, err_console
from anomia.errors import AnomiaError
from anomia.renamed import RenamedWarning

__all__ = [
    "answers",
    "cache",
    "compare",
    "compress",
    "diff",
    "gate",
    "import_",
    "items",
    "locate",
    "main",
    "plan",
    "prune",
    "push",
    "repair",
    "report",
    "run",
    "show",
    "view",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point. An `AnomiaError`, or a path that the system refuses, becomes a message and exit code 2."""
    warnings.filterwarnings("ignore", module=r"(?!anomia)")
    for talkative in ("transformers", "torch.utils._pytree", "torchao", "huggingface_hub.utils._http"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    try:
        with _notes_in_a_line():
            app(args=arguments)
    except AnomiaError as error:
        err_console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        # Names that are too long, folders that may not be read, files that stand where a folder should.
        words = (
            f"error: {error.filename}: {error.strerror.lower()}; give another path, or change its permissions"
        )
        err_console.print(words, style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)


@contextmanager
def _notes_in_a_line() -> Iterator[None]:
    """Each note about an old name as one line, once, without the place in the code that Python puts before it."""
    shown, already = warnings.showwarning, set[str]()

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if not issubclass(category, RenamedWarning):
            shown(message, category, *rest)
        elif str(message) not in already:
            already.add(str(message))
            err_console.print(f"note: {message}", highlight=False, markup=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RenamedWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
