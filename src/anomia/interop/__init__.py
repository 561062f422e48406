"""Exchange with other tools: import their sample logs as runs, and export a run's questions as their tasks."""
