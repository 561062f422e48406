"""The logs of other harnesses that can be imported. A new format is a module with a `FORMAT`, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# The command line reads the names for its help; readers take seconds to import.
if TYPE_CHECKING:
    from anomia.interop.pairs import TaskFamily
    from anomia.interop.samples import SampleFile
    from anomia.interop.settings import Settings

# The module of each tool's format, in this folder.
MODULES = {"lm-eval": "lm_eval_log", "lighteval": "lighteval_log"}


class LogFormat(NamedTuple):
    """How a tool logs samples, and how it ran the model.

    pattern: of its log files' names. read: reads one log with the filter `filter_name`; None if its task neither
    generates nor chooses. settings: reads a results file (its path, its content, the task with `_` for every other
    character). results: the folders that may have the results file of a log, besides its own and the one above.
    families: its tasks that ask the same documents in both formats.
    """

    pattern: str
    read: Callable[..., SampleFile | None]
    settings: Callable[[Path, Mapping[str, Any], str], Settings]
    results: Callable[[Path], Sequence[Path]] = lambda log: ()
    families: Sequence[TaskFamily] = ()


def log_format(tool: str) -> LogFormat:
    """The format of a tool's logs, by its name in `MODULES`."""
    found: LogFormat = import_module(f"anomia.interop.{MODULES[tool]}").FORMAT
    return found
