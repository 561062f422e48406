"""The log of a run, one JSON object per line, and experiment trackers."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anomia.errors import RunError, StudyError, nearest
from anomia.files import is_local, unwritable
from anomia.measure.frame import POOLED
from anomia.measure.results import Results
from anomia.run_folder import RunFolder
from anomia.running.progress import Ahead, Count, FinishedShard, memory_bytes

TRACKERS = ("wandb", "mlflow", "trackio")


class JsonLog:
    """Appends a run's events to the log in its folder; every line has `time`, `process` and `event`."""

    def __init__(self, folder: Path) -> None:
        self._path = RunFolder(folder).log_file if is_local(folder) else None
        self._count = Count()

    def begin(self, ahead: Ahead) -> None:
        """Logs the amount of work; versions are in the study file."""
        self._count = Count(ahead)
        self._write("begin", **ahead._asdict())

    def stage(self, text: str, total: int) -> None:
        """Logs the start of a stage."""
        self._write("stage", text=text, steps=total)

    def advance(self, *, items: int = 0) -> None:
        """Counts items without logging."""
        self._count.items += items

    def tokens(self, count: int) -> None:
        """Not logged."""

    def finish(self, shard: FinishedShard) -> None:
        """Logs a finished shard, with rate and memory."""
        memory = {f"{name}_bytes": size for name, size in memory_bytes().items()}
        self._write("shard", **shard._asdict(), items_per_second=round(self._count.rate, 4), **memory)

    def say(self, text: str) -> None:
        """Logs a message."""
        self._write("say", text=text)

    def _write(self, event: str, **values: Any) -> None:
        # Object stores can't append; there only the workers' own logs remain.
        if self._path is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "process": os.getpid(), "event": event, **values}, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RunError(unwritable(self._path, error)) from None


class Tracker:
    """Sends the progress of a run to wandb, mlflow or trackio.

    Raises:
        RunError: the package is not installed.
    """

    def __init__(self, name: str, run: str, settings: dict[str, Any]) -> None:
        if name not in TRACKERS:
            raise StudyError(f"--track {name}: unknown tracker; {nearest(name, TRACKERS)}")
        try:
            self._package: Any = importlib.import_module(name)
        except ImportError:
            raise RunError(f"--track {name} needs the package {name}: pip install {name}") from None
        self._name = name
        self._count = Count()
        if name == "mlflow":
            self._package.set_experiment("anomia")
            self._package.start_run(run_name=run)
            # MLflow parameters are strings of limited length.
            self._package.log_params({key: str(value)[:500] for key, value in settings.items()})
        else:
            self._package.init(project="anomia", name=run, config=settings)

    def begin(self, ahead: Ahead) -> None:
        """Starts counting."""
        self._count = Count(ahead)

    def stage(self, text: str, total: int) -> None:
        """Not sent."""

    def advance(self, *, items: int = 0) -> None:
        """Counts items without sending."""
        self._count.items += items

    def tokens(self, count: int) -> None:
        """Not sent."""

    def finish(self, shard: FinishedShard) -> None:
        """Sends items and shards done, rate and memory."""
        self._count.shards += 1
        self._send(
            {
                "items": self._count.items,
                "shards": self._count.shards,
                "items_per_second": self._count.rate,
                **{f"memory_{name}_bytes": size for name, size in memory_bytes().items()},
            }
        )

    def say(self, text: str) -> None:
        """Not sent."""

    def close(self, results: Mapping[str, Results]) -> None:
        """Sends accuracies, gaps and dissociation rates over all languages, by run, and closes the tracker."""
        values = {}
        for run, found in results.items():
            prefix = f"{run}/" if len(results) > 1 else ""
            for figure in found.diagnosis.figures:
                wanted = figure.measure.family in ("accuracy", "gap", "dissociation")
                if wanted and figure.scope == POOLED and figure.estimate is not None:
                    values[f"{prefix}{figure.arm}/{figure.measure}"] = float(figure.estimate.value)
        self._send(values)
        if self._name == "mlflow":
            self._package.end_run()
        else:
            self._package.finish()

    def _send(self, values: dict[str, float]) -> None:
        if self._name == "mlflow":
            self._package.log_metrics(values, step=self._count.shards)
        else:
            self._package.log(values)
