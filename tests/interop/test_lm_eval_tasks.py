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
from anomia.items.prompts import write_prompt
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
    names = export_tasks(run, tmp_path / "tasks").names
    assert names == [f"anomia_{form}_{name}" for name in ("english", "telugu") for form in ("open", "choice")]
    items = pl.read_parquet(run / "items.parquet").filter(pl.col("language") == "telugu").sort("index")
    for doc, item in zip(docs(tmp_path / "tasks", "telugu"), items.iter_rows(named=True), strict=True):
        assert doc["prompt"] == write_prompt("open", item["context"], item["question"])
        assert doc["options"] == item["options_standard"]
        assert doc["options"][doc["gold"]] == item["answers"][0]
    task = yaml.load((tmp_path / "tasks" / "anomia_open_telugu.yaml").read_text(), Harness)
    assert task["custom_dataset"] == "function utils.load"
    assert task["generation_kwargs"] == {"until": ["\n\n"], "max_gen_toks": 20, "do_sample": False}
    group = yaml.load((tmp_path / "tasks" / "anomia.yaml").read_text(), Harness)
    assert group == {"group": "anomia", "task": names}


def with_items(run: Path, **columns: list[Any]) -> Path:
    """The run with other values in the columns of its first items."""
    items = pl.read_parquet(run / "items.parquet").sort("language", "index")
    for name, values in columns.items():
        old = items[name].to_list()
        items = items.with_columns(pl.Series(name, values + old[len(values) :], dtype=items[name].dtype))
    items.write_parquet(run / "items.parquet")
    # The checksum was of the other items.
    for beside in run.glob("items.parquet?*"):
        beside.unlink()
    return run


def test_every_language_has_files_of_its_own(run: Path, tmp_path: Path) -> None:
    languages = ["中文", "日本語", "haitian creole", "haitian-creole", "x", "x" * 50]
    names = export_tasks(with_items(run, language=languages), tmp_path / "tasks").names
    assert len({name.lower() for name in names}) == len(names) == 2 * (len(languages) + 1)
    assert "anomia_open_x" in names
    found = {}
    for name in names[::2]:
        task = yaml.load((tmp_path / "tasks" / f"{name}.yaml").read_text(), Harness)
        for doc in docs(tmp_path / "tasks", task["dataset_kwargs"]["language"]):
            found.setdefault(doc["language"], set()).add(name)
    assert set(found) == {*languages, "telugu"}
    assert all(len(tasks) == 1 for tasks in found.values())
    alone = export_tasks(with_items(run, language=["日本語"] * 12), tmp_path / "alone").names
    assert set(alone) < set(names)


def test_items_that_no_option_answers_are_excluded_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = ["A", "B", "C", "D"]
    with_items(
        run, options_standard=[letters, letters, ["no", "gold"]], answers=[["B"], ["The second"], ["x"]]
    )
    assert len(exported_docs(run, tmp_path / "some", "english")) == 3
    said = capsys.readouterr().out
    assert "excluded: 3 items whose gold answer is not an option or whose options are bare letters" in said
    with_items(run, options_standard=[letters] * 12)
    with pytest.raises(RunError, match=r"no items that can be asked as choice.*bare letters"):
        export_tasks(run, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    # The first accepted answer that is an option counts.
    with_items(run, options_standard=[["no", "Gold", "neither"]], answers=[["gold!", "Gold"]])
    assert exported_docs(run, tmp_path / "one", "english")[0]["gold"] == 1


def exported_docs(run: Path, folder: Path, language: str) -> list[dict[str, Any]]:
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(run), str(folder), "--to", "lm-eval-task"])
    assert not stopped.value.code
    return docs(folder, language)


@pytest.mark.parametrize(
    ("settings", "says", "says_not"),
    [
        ({}, "pretrained=MODEL --include_path", ("chat", "graded")),
        (
            {"chat": True, "grader": "containment"},
            "pretrained=MODEL,add_bos_token=False,enable_thinking=False --apply_chat_template --include_path",
            ("graded",),
        ),
        ({"grader": "f1"}, "the run was graded by f1; the tasks say containment", ("chat",)),
    ],
)
def test_what_the_study_asked_for_is_said(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    says: str,
    says_not: Any,
) -> None:
    study = yaml.safe_load((run / "study.yaml").read_text())
    (run / "study.yaml").write_text(yaml.safe_dump(study | settings))
    exported_docs(run, tmp_path / "tasks", "english")
    said = capsys.readouterr().out
    assert says in said
    assert not any(word in said for word in says_not)


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
    assert doc["prompt"] == write_prompt("open", doc["context"][:10], doc["question"])


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


@pytest.mark.parametrize("name", ["utils.py", "english.jsonl", "anomia.yaml", "anomia_open_telugu.yaml"])
def test_tasks_overwrite_no_file_of_the_user(name: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / name).write_text("mine: 1")
    with pytest.raises(RunError, match=rf"export: .*{name} exists and was not written by anomia"):
        export_tasks(run, folder)
    assert [file.read_text() for file in folder.iterdir()] == ["mine: 1"]
    (folder / name).unlink()
    export_tasks(run, folder)
    export_tasks(run, folder)
