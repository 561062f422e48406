"""Anomia: what did compression take from a language model, the knowledge or only the words?

    import anomia

    run = anomia.run(base="Qwen/Qwen3-8B", arms=["wanda:0.5"], data="tydiqa", languages=["swahili"])
    run.verdict

Names are imported on first use, so `import anomia` is cheap.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from anomia._version import __version__

if TYPE_CHECKING:
    from anomia.api import InMemory, Run, Verdict, open_run, run
    from anomia.errors import AnomiaError
    from anomia.items import build_items, read_questions

__all__ = [
    "AnomiaError", "InMemory", "Run", "Verdict", "__version__", "build_items", "open_run", "read_questions", "run",
]  # fmt: skip

_FROM = {
    "AnomiaError": "anomia.errors",
    "InMemory": "anomia.api",
    "Run": "anomia.api",
    "Verdict": "anomia.api",
    "build_items": "anomia.items",
    "open_run": "anomia.api",
    "read_questions": "anomia.items",
    "run": "anomia.api",
}


# Log messages at import time that users can't act on: torchao's CUDA libraries that don't load on a CPU, and torch's
# remark on a torchao class.
_REMARKS = {
    "torchao": ("_C_cutlass", "_C_mxfp8"),
    "torch.utils._pytree": ("is an Enum subclass and is now natively supported",),
}


def _is_news(record: logging.LogRecord) -> bool:
    return not any(remark in record.getMessage() for remark in _REMARKS.get(record.name, ()))


for _name in _REMARKS:
    logging.getLogger(_name).addFilter(_is_news)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _FROM:
        return getattr(import_module(_FROM[name]), name)
    raise AttributeError(f"module 'anomia' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
