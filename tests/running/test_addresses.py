"""Runs on fsspec addresses: the same records as on a disk, gone on with, and read where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anomia.errors import RunError
from anomia.files import is_local, place
from anomia.matrix import read_matrix
from anomia.measure.results import read_results
from anomia.run_folder import RunFolder
from anomia.running.execute import run_matrix
from anomia.running.progress import PlainProgress
from tests.conftest import entry


def test_a_run_in_a_store_is_that_on_a_disk(
    write_jsonl: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    data = write_jsonl([entry(n, name) for name in ("english", "swahili") for n in range(8)])
    settings = {
        "base": str(model_folder),
        "arms": ["magnitude:0.5"],
        "data": f"jsonl:{data}",
        "limit": 4,
        "probes": ["open", "choice", "rank"],
        "max_new_tokens": 2,
        "noise_items": 2,
    }
    matrix, said = read_matrix(None, settings), list[str]()
    run_matrix(matrix, tmp_path / "run", progress=PlainProgress(said.append))
    store = place(f"memory://{tmp_path.name}/run")
    run_matrix(matrix, store, progress=PlainProgress(said.append))
    records = RunFolder(tmp_path / "run").records()
    assert RunFolder(store).records().equals(records)
    assert read_results(store).arms == ["magnitude:0.5"]
    damaged = next(file for file in sorted((store / "records").glob("*.parquet")) if "magnitude" in file.name)
    damaged.write_bytes(b"PAR1 no")
    run_matrix(matrix, store, progress=PlainProgress(said.append))
    assert RunFolder(store).records().equals(records)
    assert any("was renamed" in line for line in said)


def test_places() -> None:
    assert is_local(place("/tmp/x"))
    assert is_local(place(Path("x")))
    assert place("file:///tmp/x") == Path("/tmp/x")
    assert not is_local(place("memory://x/y"))
    assert str(place("memory://x/y")).startswith("memory://")
    with pytest.raises(RunError, match="can't be reached"):
        place("nosuch://x/y")
