"""From a study to records: plan, execute, resume."""
