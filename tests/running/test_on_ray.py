"""A local Ray of two workers gives the records of a run in this process, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
import torch
from upath import UPath

from anomia.errors import AnomiaError, RunError
from anomia.files import is_local
from anomia.matrix import Matrix, read_matrix
from anomia.run_folder import RunFolder, runs_of
from anomia.running.execute import run_matrix
from anomia.running.on_ray import Size, on_ray
from anomia.running.progress import FinishedShard, PlainProgress
from tests.conftest import entry
from tests.endpoint.fake_server import Fake, serving

ray = pytest.importorskip("ray", reason="needs the ray extra: pip install 'anomia[ray]'")
# Every worker imports torch anew.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    import sys

    torch.set_num_threads(1)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def matrix(write_jsonl: Callable[..., Path], model_folder: Path) -> Matrix:
    one = write_jsonl([entry(n, name) for name in ("english", "swahili") for n in range(40)], "one.jsonl")
    two = write_jsonl([entry(n, "english") for n in range(50, 58)], "two.jsonl")
    return read_matrix(
        None,
        {
            "base": str(model_folder),
            "arms": ["wanda:0.5"],
            "data": [f"jsonl:{one}", f"jsonl:{two}"],
            "limit": 36,
            "oracle_limit": 4,
            "calibration": "demo",
            "calibration_samples": 3,
            "calibration_tokens": 32,
            "probes": ["open", "choice", "rank", "beams"],
            "max_new_tokens": 3,
            "noise_items": 2,
        },
    )


class Watching(PlainProgress):
    """Keeps what was said and finished; kills the worker of the first finished shard, where asked."""

    def __init__(self, *, kill: bool = False) -> None:
        self.said: list[str] = []
        self.shards: list[FinishedShard] = []
        self._kill = kill
        super().__init__(self.said.append)

    def finish(self, shard: FinishedShard) -> None:
        self.shards.append(shard)
        if self._kill:
            self._kill = False
            os.kill(int(shard.where.rpartition(":")[2]), signal.SIGKILL)


def on_cluster(matrix: Matrix, out: Path, progress: Watching, **more: Any) -> list[Any]:
    with on_ray(None, Size(1, 0), progress) as measure:
        return run_matrix(matrix, out, progress=progress, measure=measure, **more)


def assert_same(one: pl.DataFrame, two: pl.DataFrame) -> None:
    """Texts, picks and ranks equal, scores within 1e-4."""
    assert one.columns == two.columns
    for name, kind in one.schema.items():
        if kind in (pl.Float64, pl.List(pl.Float64)):
            left, right = (
                frame[name].explode() if kind != pl.Float64 else frame[name] for frame in (one, two)
            )
            assert (left - right).abs().max() in (None, pytest.approx(0, abs=1e-4)), name
        else:
            assert one[name].equals(two[name], null_equal=True), name


def test_records_are_those_of_a_run_in_this_process_also_when_a_worker_is_killed(
    matrix: Matrix, tmp_path: Path
) -> None:
    run_matrix(matrix, tmp_path / "here", progress=PlainProgress(lambda text: None))
    watching = Watching(kill=True)
    outcomes = on_cluster(matrix, tmp_path / "ray", watching)
    assert not any(outcome.failed for outcome in outcomes)
    for here, there in zip(runs_of(tmp_path / "here"), runs_of(tmp_path / "ray"), strict=True):
        assert_same(RunFolder(here).records(), RunFolder(there).records())
        assert (here / "noise.json").read_text() == (there / "noise.json").read_text()
    lost = [line for line in watching.said if "was lost; another will redo it" in line]
    assert len(lost) == 1, watching.said
    assert len({shard.where for shard in watching.shards if shard.arm == "base"}) >= 2
    # What is done is not done again.
    again = Watching()
    on_cluster(matrix, tmp_path / "ray", again)
    assert again.shards == []


def test_served_models_are_asked_from_here_while_workers_ask_the_others(
    matrix: Matrix, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    """One process keeps the key and the rate of requests; workers have neither."""
    (cell, _) = matrix.cells
    fake = Fake(make_model(), tokenizer)
    with serving(fake) as url:
        served = f"endpoint:{url}#tiny"
        study = cell.study.model_copy(update={"arms": (served, "magnitude:0.5"), "limit": 3})
        alone = Matrix((cell._replace(study=study),), single=True)
        run_matrix(alone, tmp_path / "here", progress=PlainProgress(lambda text: None))
        requests = len(fake.requests)
        watching = Watching()
        outcomes = on_cluster(alone, tmp_path / "ray", watching)
        assert len(fake.requests) == 2 * requests
    assert [(outcome.arm, outcome.failed) for outcome in outcomes] == [
        ("base", None), (served, None), ("magnitude:0.5", None)
    ]  # fmt: skip
    assert {bool(shard.where) for shard in watching.shards if shard.arm == served} == {False}
    assert {bool(shard.where) for shard in watching.shards if shard.arm != served} == {True}
    assert_same(RunFolder(tmp_path / "here").records(), RunFolder(tmp_path / "ray").records())


def test_an_arm_that_cannot_be_made_is_reported_and_the_others_go_on(
    matrix: Matrix, damaged_folder: Path, tmp_path: Path
) -> None:
    (cell, _) = matrix.cells
    study = cell.study.model_copy(
        update={"arms": (f"checkpoint:{damaged_folder}", "magnitude:0.5"), "limit": 3}
    )
    # By its address, as workers are told of a store.
    store = cast(Path, UPath(f"file://{tmp_path}/run"))
    assert not is_local(store)
    outcomes = on_cluster(Matrix((cell._replace(study=study),), single=True), store, Watching())
    assert [bool(outcome.failed) for outcome in outcomes] == [False, True, False]
    assert str(damaged_folder) in str(outcomes[1].failed)
    assert set(RunFolder(tmp_path / "run").records()["arm"]) == {"base", "magnitude:0.5"}


def test_base_that_cannot_be_loaded_ends_the_run(matrix: Matrix, tmp_path: Path) -> None:
    (cell, _) = matrix.cells
    study = cell.study.model_copy(update={"base": "/nowhere/at/all"})
    with pytest.raises(AnomiaError, match="nowhere"):
        on_cluster(Matrix((cell._replace(study=study),), single=True), tmp_path / "run", Watching())
    assert not (tmp_path / "run").exists()


def test_workers_that_find_no_room_are_refused() -> None:
    with (
        pytest.raises(RunError, match="asks for 64 CPUs and 0 GPUs, and the cluster has 2 and 0"),
        on_ray(None, Size(64, 0), Watching()),
    ):
        pass
