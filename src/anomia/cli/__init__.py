"""The command line, one module per command. It is thin: decisions are made elsewhere."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence

from anomia.cli import (
    cache,
    compare,
    compress,
    diff,
    gate,
    import_,
    items,
    plan,
    prune,
    push,
    report,
    run,
    show,
    view,
)
from anomia.cli.app import app, err_console
from anomia.errors import AnomiaError

__all__ = [
    "cache",
    "compare",
    "compress",
    "diff",
    "gate",
    "import_",
    "items",
    "main",
    "plan",
    "prune",
    "push",
    "report",
    "run",
    "show",
    "view",
]


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point. An `AnomiaError` becomes a message and exit code 2."""
    warnings.filterwarnings("ignore", module=r"(?!anomia)")
    for talkative in ("transformers", "torch.utils._pytree", "torchao", "huggingface_hub.utils._http"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    try:
        app(args=arguments)
    except AnomiaError as error:
        err_console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
