"""From a study to records: plan, execute, resume."""

import sys
from types import ModuleType
from typing import Any

from anomia.run.execute import ArmOutcome, run_matrix, run_study
from anomia.run.progress import PlainProgress, Progress, RichProgress

__all__ = ["ArmOutcome", "PlainProgress", "Progress", "RichProgress", "run_matrix", "run_study"]


class _Callable(ModuleType):
    """`anomia.run` is this folder and, for those who write `anomia.run(base=…)`, the function of the API."""

    def __call__(self, **arguments: Any) -> Any:
        """As `anomia.api.run`."""
        from anomia.api import run

        return run(**arguments)


sys.modules[__name__].__class__ = _Callable
