"""A run as a data set: readable by `datasets`, without paths of this machine, and uploaded by the hub's own client."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import polars as pl
import pytest
import torch
import yaml

from anomia.errors import RunError
from anomia.matrix import read_matrix
from anomia.records import SCHEMA
from anomia.report.share import push_run
from anomia.running.execute import run_matrix
from anomia.running.progress import PlainProgress
from tests.conftest import entry


@pytest.fixture(scope="module")
def run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("work")
    data = folder / "secret" / "questions.jsonl"
    data.parent.mkdir()
    lines = [entry(n, name) for name in ("english", "swahili") for n in range(8)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {
        "base": str(model_folder),
        "arms": ["magnitude:0.5"],
        "data": [f"jsonl:{data}"],
        "seed": [1, 2],
        "limit": 3,
        "probes": ["open", "choice"],
        "max_new_tokens": 2,
        "noise_items": 0,
    }
    run_matrix(read_matrix(None, settings), folder / "run", progress=PlainProgress(lambda text: None))
    return folder / "run"


def test_a_folder_is_a_data_set_with_a_card(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "shared"
    assert push_run(run, str(out)) == str(out)
    rows = datasets.load_dataset("parquet", data_files=str(out / "records" / "*.parquet"), split="train",
                                 cache_dir=str(tmp_path / "cache"))  # fmt: skip
    assert rows.num_rows == 2 * 2 * 6
    assert set(rows.column_names) == set(SCHEMA)
    header = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert header["language"] == ["en", "sw"]
    assert {config["config_name"] for config in header["configs"]} == {"records", "items"}
    assert len(list((out / "runs").glob("*/results.json"))) == 2


def test_paths_of_this_machine_are_not_shared(run: Path, tmp_path: Path) -> None:
    push_run(run, str(tmp_path / "shared"))
    for file in (tmp_path / "shared").rglob("*"):
        if file.suffix in (".yaml", ".json", ".md"):
            assert str(run.parent) not in file.read_text(), file
    columns = pl.read_parquet(tmp_path / "shared" / "records" / "*.parquet")["dataset"]
    assert columns.unique().to_list() == ["jsonl:questions.jsonl"]
    study = next((tmp_path / "shared" / "runs").glob("*/study.yaml"))
    assert yaml.safe_load(study.read_text())["data"] == "jsonl:questions.jsonl"


def test_what_is_there_is_not_written_over(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists"):
        push_run(run, str(tmp_path))
    with pytest.raises(RunError, match="not a name on the hub"):
        push_run(run, "hub:../x")


def test_the_hub_gets_the_same_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, name: str, **options: Any) -> Any:
            calls.append((name, options))
            return SimpleNamespace(repo_id=f"me/{name}", __str__=lambda: "url")

        def upload_folder(self, **options: Any) -> None:
            files = sorted(
                str(f.relative_to(options["folder_path"])) for f in Path(options["folder_path"]).rglob("*")
            )
            calls.append((options["repo_id"], {"type": options["repo_type"], "files": files}))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    push_run(run, "hub:study", private=True)
    push_run(run, str(tmp_path / "shared"))
    (created, options), (repo, uploaded) = calls
    assert (created, options["private"], options["repo_type"]) == ("study", True, "dataset")
    assert (repo, uploaded["type"]) == ("me/study", "dataset")
    folder = tmp_path / "shared"
    assert uploaded["files"] == sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def test_a_hub_that_refuses_is_one_message(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def create_repo(self, *_: Any, **__: Any) -> None:
            raise OSError("401 Unauthorized\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(RunError, match=r"hub:me/x can't be written: 401 Unauthorized; log in"):
        push_run(run, "hub:me/x")
