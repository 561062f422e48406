"""The exported tasks: the prompts that base saw, options as scored, helpers that stand alone."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from anomia.cli import main
from anomia.errors import RunError
from anomia.grade import contains
from anomia.interop.lm_eval_tasks import export_tasks
from anomia.items import build_items, read_questions
from anomia.items.prompts import open_prompt
from anomia.records import ITEM_SCHEMA, SCHEMA, item_rows, write_rows


class Harness(yaml.SafeLoader):
    """Reads YAML as the harness does: `!function` is its own tag."""


Harness.add_constructor("!function", lambda loader, node: f"function {node.value}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    sets = build_items(read_questions("demo", ["english", "telugu"]), dataset="demo", limit=6, seed=1)
    rows = [row for items in sets.values() for row in item_rows(items)]
    write_rows(rows, tmp_path / "run" / "items.parquet", ITEM_SCHEMA)
    study = {"base": "x", "max_new_tokens": 20, "stop": ["\n\n"], "provenance": {}}
    (tmp_path / "run" / "study.yaml").write_text(yaml.safe_dump(study))
    return tmp_path / "run"


def docs(folder: Path, language: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{language}.jsonl").read_text().split("\n") if line]


def test_tasks_ask_what_the_run_asks(run: Path, tmp_path: Path) -> None:
    names = export_tasks(run, tmp_path / "tasks")
    assert names == [f"anomia_{form}_{name}" for name in ("english", "telugu") for form in ("open", "choice")]
    items = pl.read_parquet(run / "items.parquet").filter(pl.col("language") == "telugu").sort("index")
    for doc, item in zip(docs(tmp_path / "tasks", "telugu"), items.iter_rows(named=True), strict=True):
        assert doc["prompt"] == open_prompt(item["context"], item["question"])
        assert doc["options"] == item["options_standard"]
        assert doc["options"][doc["gold"]] == item["answers"][0]
    task = yaml.load((tmp_path / "tasks" / "anomia_open_telugu.yaml").read_text(), Harness)
    assert task["custom_dataset"] == "function utils.load"
    assert task["generation_kwargs"] == {"until": ["\n\n"], "max_gen_toks": 20, "do_sample": False}
    group = yaml.load((tmp_path / "tasks" / "anomia.yaml").read_text(), Harness)
    assert group == {"group": "anomia", "task": names}


def test_passages_are_cut_where_base_saw_them_cut(run: Path, tmp_path: Path) -> None:
    items = pl.read_parquet(run / "items.parquet")
    about = [name for name in ITEM_SCHEMA if name in SCHEMA]
    rows = [
        {
            **dict.fromkeys(SCHEMA),
            **item,
            "arm": "base",
            "gold": "x",
            "finite": True,
            "context_characters": 10,
        }
        for item in items.select(about).iter_rows(named=True)
    ]
    write_rows(rows, run / "records" / "base.parquet")
    export_tasks(run, tmp_path / "tasks")
    doc = docs(tmp_path / "tasks", "english")[0]
    assert doc["prompt"] == open_prompt(doc["context"][:10], doc["question"])


def test_the_helpers_stand_alone_and_grade_alike(run: Path, tmp_path: Path) -> None:
    export_tasks(run, tmp_path / "tasks")
    text = (tmp_path / "tasks" / "utils.py").read_text()
    assert "anomia." not in text.replace("Anomia", "")
    helpers = runpy.run_path(str(tmp_path / "tasks" / "utils.py"))
    loaded = helpers["load"]("telugu")["test"]
    assert loaded.to_list() == docs(tmp_path / "tasks", "telugu")
    for output, answers in (
        ("It was ๑๙๒๘!", ["๑๙๒๘"]),
        ("ＲＯＭＥ.", ["Paris", "rome"]),
        ("", ["x"]),
        ("a\nb", ["b"]),
    ):
        found = helpers["process_results"]({"answers": answers}, [output])
        assert found["contains"] == any(contains(output, answer) for answer in answers)
    assert helpers["process_results"]({"answers": ["b"]}, ["a\nb"]) == {"contains": 1.0, "em": 0.0}


def test_the_command_says_how_to_go_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(run), str(tmp_path / "tasks"), "--to", "lm-eval-task"])
    assert not stopped.value.code
    assert "--include_path" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(run), str(tmp_path / "tasks"), "--to", "helm"])
    assert stopped.value.code == 2
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="can't be written"):
        export_tasks(run, tmp_path / "file")
