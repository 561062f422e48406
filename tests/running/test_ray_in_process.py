"""What Ray is asked for, with a stand-in that runs every worker in this process: same records, lost workers replaced."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from anomia.matrix import read_matrix
from anomia.run_folder import RunFolder, runs_of
from anomia.running.execute import run_matrix
from anomia.running.on_ray import Size, on_ray
from anomia.running.progress import PlainProgress
from tests.conftest import entry


class ActorError(Exception):
    """A worker was lost."""


class Ray:
    """A cluster in this process. losses: calls, by number, at which a worker dies."""

    exceptions = SimpleNamespace(RayActorError=ActorError)

    def __init__(self, losses: Sequence[int] = ()) -> None:
        self.losses, self.calls, self.results = set(losses), 0, dict[int, Any]()

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, kind: type) -> Any:
        def make(*arguments: Any) -> Any:
            # As on a cluster, a worker has copies of what it is given.
            return _Actor(self, kind(*pickle.loads(pickle.dumps(arguments))))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def call(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        self.calls += 1
        lost = self.calls in self.losses
        result = None if lost else method(*pickle.loads(pickle.dumps(arguments)))
        self.results[self.calls] = ActorError() if lost else pickle.loads(pickle.dumps(result))
        return self.calls

    def wait(self, tasks: list[int], *, num_returns: int) -> tuple[list[int], list[int]]:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task: int) -> Any:
        if isinstance(found := self.results[task], Exception):
            raise found
        return found

    def kill(self, worker: Any) -> None:
        """Nothing is left of it."""


class _Actor:
    def __init__(self, ray: Ray, held: Any) -> None:
        self._ray, self._held = ray, held

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._held, name)
        return SimpleNamespace(remote=lambda *arguments: self._ray.call(method, arguments))


def test_records_are_those_of_one_process(
    write_jsonl: Callable[..., Path], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl([entry(n, name) for name in ("english", "swahili") for n in range(12)])
    matrix = read_matrix(
        None,
        {
            "base": str(model_folder), "arms": ["magnitude:0.5"], "data": [f"jsonl:{data}"], "seed": [42, 43],
            "limit": 6, "oracle_limit": 2, "probes": ["open", "choice", "rank"], "max_new_tokens": 3,
            "noise_items": 2,
        },
    )  # fmt: skip
    run_matrix(matrix, tmp_path / "here", progress=PlainProgress(lambda text: None))
    ray = Ray(losses=(1, 3))
    monkeypatch.setitem(sys.modules, "ray", ray)
    said: list[str] = []
    progress = PlainProgress(said.append)
    with on_ray(None, Size(1, 0), progress) as executor:
        outcomes = run_matrix(matrix, tmp_path / "ray", progress=progress, measure=executor)
    assert not any(outcome.failed for outcome in outcomes)
    assert sum("was lost; another will redo it" in text for text in said) == 2
    for here, there in zip(runs_of(tmp_path / "here"), runs_of(tmp_path / "ray"), strict=True):
        assert RunFolder(here).records().equals(RunFolder(there).records())
        assert RunFolder(here).noise.read() == RunFolder(there).noise.read()
    # A second call finds nothing to do.
    calls = ray.calls
    with on_ray(None, Size(1, 0), progress) as executor:
        run_matrix(matrix, tmp_path / "ray", progress=progress, measure=executor)
    assert ray.calls == calls


def test_prompts_are_answered_on_workers_as_here(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.jsonl"
    rows = [{"prompt": f"Tell me about {n}.", "language": "sw" if n % 2 else "en"} for n in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    matrix = read_matrix(
        None,
        {
            "base": str(model_folder), "arms": ["magnitude:0.5", "null:batch=2"], "data": [f"prompts:{file}"],
            "continuation_tokens": 24, "stop_at_loops": True, "dtype": "float32",
        },
    )  # fmt: skip
    run_matrix(matrix, tmp_path / "here", progress=PlainProgress(lambda text: None))
    monkeypatch.setitem(sys.modules, "ray", Ray(losses=(2,)))
    progress = PlainProgress(lambda text: None)
    with on_ray(None, Size(1, 0), progress) as executor:
        outcomes = run_matrix(matrix, tmp_path / "ray", progress=progress, measure=executor)
    assert not any(outcome.failed for outcome in outcomes)
    (here,), (there,) = runs_of(tmp_path / "here"), runs_of(tmp_path / "ray")
    records = RunFolder(here).records()
    assert len(records) == 3 * 8
    assert records["continuation_ids"].null_count() == 0
    # Workers take an arm along base's answers, which they read from the run's folder.
    assert records.filter(pl.col("arm") != "base")["continuation_kl"].null_count() == 0
    assert records.equals(RunFolder(there).records(), null_equal=True)
