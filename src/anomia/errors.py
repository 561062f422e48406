"""Every error that Anomia raises on purpose.

AnomiaError                 exit code 2, one message, no traceback
├── StudyError              a study file, flag or arm specification is wrong
├── DataError               questions or calibration text can't be used
├── ModelError              a model can't be loaded or can't be probed
├── CompressionError        a compression can't be applied to this model
│   └── RefusedError        and retrying with these settings won't help
├── RunError                a run folder can't be read or written
└── MissingExtraError       an optional package is not installed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AnomiaError(Exception):
    """Base of all deliberate errors; the message says what is wrong, where, and how to fix it."""


class StudyError(AnomiaError):
    """A study file, a flag or an arm specification is wrong."""


class DataError(AnomiaError):
    """Questions or calibration text can't be used."""


class ModelError(AnomiaError):
    """A model can't be loaded or can't be probed."""


class CompressionError(AnomiaError):
    """A compression can't be applied to this model."""


class RefusedError(CompressionError):
    """A compression can't be applied to this model with these settings, and retrying won't help."""


class RunError(AnomiaError):
    """A run folder can't be read or written."""


class MissingExtraError(AnomiaError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package}: pip install 'anomia[{extra}]'")


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest valid name, or all valid names."""
    # Names from files may be numbers or None.
    known = sorted(str(option) for option in valid)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
