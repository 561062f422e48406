"""From a study to records: plan, execute, resume."""

from anomia.run.execute import ArmOutcome, run_matrix, run_study
from anomia.run.progress import PlainProgress, Progress, RichProgress

__all__ = ["ArmOutcome", "PlainProgress", "Progress", "RichProgress", "run_matrix", "run_study"]
