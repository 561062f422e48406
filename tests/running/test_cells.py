"""Several cells: each an ordinary run, equal work done once, and base taken from an earlier run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from anomia.errors import RunError
from anomia.files import read_json
from anomia.matrix import Matrix, read_matrix
from anomia.report.export import export_run
from anomia.run_folder import RunFolder, runs_of
from anomia.running import execute, model
from anomia.running.execute import run_matrix
from anomia.running.progress import PlainProgress
from tests.conftest import entry

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def settings(write_jsonl: Write, model_folder: Path) -> dict[str, Any]:
    one = write_jsonl([entry(n, name) for name in ("english", "swahili") for n in range(8)], "one.jsonl")
    two = write_jsonl([entry(n, "english") for n in range(20, 28)], "two.jsonl")
    return {
        "base": str(model_folder),
        "arms": [{"wanda": {"sparsity": [0.3, 0.5]}}],
        "data": [f"jsonl:{one}", f"jsonl:{two}"],
        "limit": 4,
        "calibration": "demo",
        "calibration_samples": 3,
        "calibration_tokens": 32,
        "probes": ["open", "choice", "rank"],
        "max_new_tokens": 2,
        "noise_items": 2,
    }


def run(matrix: Matrix, out: Path, said: list[str] | None = None, **more: Any) -> None:
    said = [] if said is None else said
    outcomes = run_matrix(matrix, out, progress=PlainProgress(said.append), **more)
    assert not any(outcome.failed for outcome in outcomes)


def test_every_cell_is_the_run_of_its_own_study_and_models_are_loaded_once(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = model.load_model
    monkeypatch.setattr(model, "load_model", lambda name, **k: loads.append(name) or load(name, **k))
    matrix = read_matrix(None, settings)
    out = tmp_path / "runs"
    run(matrix, out)
    assert len(loads) == 3
    assert [path.name for path in runs_of(out)] == [cell.name for cell in matrix.cells]
    for cell in matrix.cells:
        run(Matrix((cell,), single=True), tmp_path / cell.name)
        alone, together = (
            RunFolder(tmp_path / cell.name).records(),
            RunFolder(out / "cells" / cell.name).records(),
        )
        assert together.equals(alone)
    # The matrix file is the study again, and nothing is left to do.
    loads.clear()
    run(read_matrix(RunFolder(out).matrix_file, {}), out)
    assert loads == []
    rows = export_run(out, tmp_path / "rows.parquet")
    assert rows == 3 * (8 + 4)
    assert pl.read_parquet(tmp_path / "rows.parquet")["cell"].n_unique() == 2


def test_calibration_text_is_free_of_the_passages_of_all_cells(
    settings: dict[str, Any], tmp_path: Path, write_jsonl: Write
) -> None:
    shared = [
        entry(n, "english")["context"] + " It lies by the river, and few ever go there now."
        for n in range(22, 25)
    ]
    text = tmp_path / "text.jsonl"
    fresh = [f"Entirely other words number {n} that nobody has asked about so far" for n in range(5)]
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in [*shared, *fresh]))
    settings |= {"calibration": f"file:{text}", "arms": ["wanda:0.5"], "limit": None}
    out = tmp_path / "runs"
    run(read_matrix(None, settings), out)
    notes = [read_json(file) or {} for file in sorted(out.rglob("compression/*.json"))]
    assert len(notes) == 2
    for note in notes:
        assert note["steps"][0]["calibration"]["removed"] == 3
        assert sorted(note["free_of"].values()) == [7, 7]


def test_own_masks_are_made_once_a_language(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text" / "wikipedia").mkdir(parents=True)
    for language in ("english", "swahili"):
        lines = [json.dumps({"text": f"{language} passage {n} about nothing " * 9}) for n in range(5)]
        (tmp_path / "text" / "wikipedia" / f"{language}.jsonl").write_text("\n".join(lines))
    made = []
    real = model.compress_arm
    monkeypatch.setattr(model, "compress_arm", lambda *a: made.append(a[3]) or real(*a))
    settings |= {"arms": ["wanda:0.5,calibration=own"], "calibration_folder": str(tmp_path / "text")}
    run(read_matrix(None, settings), tmp_path / "runs")
    assert made == [("english",), ("swahili",)]


def test_one_base_that_cannot_be_loaded_leaves_the_others(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["base"] = ["/nowhere/at/all", settings["base"]]
    matrix = read_matrix(None, settings)
    outcomes = run_matrix(matrix, tmp_path / "runs", progress=PlainProgress(lambda text: None))
    failed = [outcome for outcome in outcomes if outcome.failed]
    assert [outcome.cell for outcome in failed] == [cell.name for cell in matrix.cells[:2]]
    assert all("nowhere" in str(outcome.failed) for outcome in failed)
    assert len(runs_of(tmp_path / "runs")) == 2


def test_other_calibration_text_for_the_rest_of_an_arm_is_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Some words about the weather\n\nand others about the sea")
    settings |= {"calibration": f"file:{text}", "arms": ["wanda:0.5"]}
    out = tmp_path / "runs"
    run(read_matrix(None, settings), out)
    next(out.rglob("wanda*swahili*.parquet")).unlink()
    text.write_text("Something else altogether")
    with pytest.raises(RunError, match="started with different calibration text"):
        run(read_matrix(None, settings), out)


def test_a_run_of_one_study_and_one_of_several_do_not_share_a_folder(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    several = read_matrix(None, settings)
    one = read_matrix(None, settings | {"data": settings["data"][0]})
    run(one, tmp_path / "one")
    with pytest.raises(RunError, match="holds a run of a single-cell study"):
        run(several, tmp_path / "one")
    run(several, tmp_path / "several")
    with pytest.raises(RunError, match="not an Anomia run"):
        run(one, tmp_path / "several")


def test_base_is_taken_from_an_earlier_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["data"] = settings["data"][0]
    run(read_matrix(None, settings), tmp_path / "first")
    other = settings | {"arms": ["magnitude:0.5"]}
    run(read_matrix(None, other), tmp_path / "anew")
    asked: list[str] = []
    shard = execute.measure_shard
    monkeypatch.setattr(execute, "measure_shard", lambda c, s, *a: asked.append(s.arm) or shard(c, s, *a))
    said: list[str] = []
    run(read_matrix(None, other), tmp_path / "reused", said, reuse=[tmp_path / "first"])
    assert set(asked) == {"magnitude:0.5"}
    assert RunFolder(tmp_path / "reused").records().equals(RunFolder(tmp_path / "anew").records())
    assert (tmp_path / "reused" / "noise.json").read_text() == (tmp_path / "anew" / "noise.json").read_text()
    assert any("base's 4 items are reused from" in line for line in said)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_new_tokens": 3}, "max_new_tokens in the study"),
        ({"seed": 43}, "seed in the study"),
        ({"limit": 5}, "different questions"),
        ({"dtype": "bfloat16"}, "weights, dtype"),
    ],
)
def test_what_differs_is_said_and_base_measured_anew(
    change: dict[str, Any], says: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["data"] = settings["data"][0]
    run(read_matrix(None, settings), tmp_path / "first")
    said: list[str] = []
    run(read_matrix(None, settings | change), tmp_path / "second", said, reuse=[tmp_path / "first"])
    assert any("base is not reused from" in line and says in line for line in said), said
