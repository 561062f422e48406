"""From a study to records: plan, execute, resume."""

from anomia.run.execute import run_study
from anomia.run.progress import PlainProgress, Progress, RichProgress

__all__ = ["PlainProgress", "Progress", "RichProgress", "run_study"]
