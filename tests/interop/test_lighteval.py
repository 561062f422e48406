"""The way through the real lighteval: what its files hold is what the import makes a run of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow.parquet
import pytest

from anomia.cli import main
from anomia.measure.recognition import with_fates
from anomia.run_folder import RunFolder
from tests.peers import peer

TASKS = Path(__file__).with_name("lighteval_tasks.py")
MODELS = ("base", "pruned")

pytestmark = pytest.mark.slow


class Both(NamedTuple):
    """The same questions, asked by Anomia and by lighteval: two runs, and what lighteval wrote."""

    ours: Path
    theirs: Path
    written: Path


@pytest.fixture(scope="module")
def both(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    python = peer("lighteval")
    place = tmp_path_factory.mktemp("lighteval")
    # lighteval caches its answers in a model's folder.
    shutil.copytree(model_folder, place / "base")
    call("prune", place / "base", place / "pruned", "--method", "magnitude", "--sparsity", "0.1")
    call("run", *study(place, "demo"), "--out", place / "first")
    questions = answerable(place / "first")
    (place / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    call("run", *study(place, f"jsonl:{place}/questions.jsonl"), "--out", place / "ours")
    call("export", place / "ours", place / "tasks", "--to", "lm-eval-task")
    (place / "data").mkdir()
    lines = [(place / "tasks" / f"{name}.jsonl").read_text() for name in ("english", "russian")]
    (place / "data" / "train.jsonl").write_text("".join(lines))
    for name in MODELS:
        evaluate(python, place / name, place / "data", place / "out")
    details = [next((place / "out" / "details").rglob(name)) for name in MODELS]
    call("import", "lighteval", *details, "--out", place / "theirs")
    return Both(place / "ours", place / "theirs", place / "out")


def study(place: Path, data: str) -> list[object]:
    models = ["--base", place / "base", "--arm", f"checkpoint:{place / 'pruned'}"]
    return [
        *models,
        "--data",
        data,
        "--languages",
        "english,russian",
        "--limit",
        "12",
        "--probes",
        "open,choice",
    ]


def answerable(run: Path) -> list[dict[str, Any]]:
    """The run's questions, made such that base answers half of them and picks right in four of five.

    Of those that base answers the pruned model answers half too.
    """
    records = RunFolder(run).records()
    base, pruned = (
        {
            row["item_id"]: row
            for row in records.filter((records["arm"] == "base") == mine).iter_rows(named=True)
        }
        for mine in (True, False)
    )
    questions = []
    for number, row in enumerate(RunFolder(run).items().iter_rows(named=True)):
        told = [each[row["item_id"]]["open_text"].strip() for each in (base, pruned)]
        heard = (told[:1], told, told[1:], [])[number % 4]
        gold = base[row["item_id"]]["choice_pick"] if number % 5 else row["answers"][0]
        questions.append({
            "id": row["item_id"], "language": row["language"], "context": row["context"],
            "question": row["question"], "answers": [gold, *heard],
            "distractors": [option for option in row["options_standard"] if option != gold],
        })  # fmt: skip
    return questions


def evaluate(python: Path, model: Path, data: Path, out: Path) -> None:
    # Else it takes the tokenizer's chat template.
    plain = "override_chat_template=False"
    command = [
        str(python), str(TASKS), "accelerate", f"model_name={model},dtype=float32,batch_size=1,max_length=4096,{plain}",
        "anomia_open,anomia_choice", "--custom-tasks", str(TASKS), "--save-details", "--output-dir", str(out),
    ]  # fmt: skip
    more = {
        "ANOMIA_LIGHTEVAL_DATA": str(data), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out / "cache"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, **more}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_run_holds_what_lighteval_wrote(both: Both) -> None:
    records = RunFolder(both.theirs).records()
    assert records["arm"].unique().sort().to_list() == sorted(MODELS)
    for model in MODELS:
        opened, chosen = (details(both, model, task) for task in ("open", "choice"))
        rows = records.filter(records["arm"] == model)
        assert set(rows["question"]) == set(opened) == set(chosen)
        for row in rows.iter_rows(named=True):
            asked, told = opened[row["question"]], chosen[row["question"]]
            assert row["language"] == asked["doc"]["specific"]["language"]
            assert row["open_text"] == asked["model_response"]["text"][0]
            assert row["open_correct"] == asked["metric"]["em"]
            assert row["gold"] == asked["doc"]["choices"][0]
            scores = told["model_response"]["logprobs"]
            assert row["choice_scores"] == scores
            assert row["choice_pick"] == told["doc"]["choices"][scores.index(max(scores))].strip()
            assert row["choice_correct"] == told["metric"]["acc"]


def details(both: Both, model: str, task: str) -> dict[str, Any]:
    """What lighteval wrote of a model's answers, by question, read without Anomia."""
    (folder,) = (both.written / "details").rglob(model)
    (file,) = folder.glob(f"*/details_anomia_{task}|0_*.parquet")
    rows = pyarrow.parquet.read_table(file).to_pylist()
    found = {row["doc"]["specific"]["question"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_accuracies_are_those_that_lighteval_reports(both: Both) -> None:
    records = RunFolder(both.theirs).records()
    for model in MODELS:
        (folder,) = (both.written / "results").rglob(model)
        (file,) = folder.glob("results_*.json")
        results = json.loads(file.read_text())["results"]
        rows = records.filter(records["arm"] == model)
        assert rows["open_correct"].mean() == pytest.approx(results["anomia_open|0"]["em"])
        assert rows["choice_correct"].mean() == pytest.approx(results["anomia_choice|0"]["acc"])


def test_lighteval_sees_what_anomia_sees(both: Both) -> None:
    ours, theirs = (
        RunFolder(run).records().sort(pl.col("arm") != "base", "question") for run in (both.ours, both.theirs)
    )
    assert ours["question"].to_list() == theirs["question"].to_list()
    assert ours["open_text"].to_list() == theirs["open_text"].to_list()
    assert ours["open_correct"].to_list() == theirs["open_correct"].to_list()
    compared = 0
    for mine, its in zip(ours.iter_rows(named=True), theirs.iter_rows(named=True), strict=True):
        assert its["choice_scores"] == pytest.approx(mine["choice_scores"], abs=1e-3)
        first, second = sorted(mine["choice_scores"], reverse=True)[:2]
        if first - second > 0.01:
            assert mine["choice_pick"] == its["choice_pick"]
            compared += 1
    assert compared > 0.9 * len(ours)


def test_the_commands_read_it(both: Both, capsys: pytest.CaptureFixture[str]) -> None:
    fates = with_fates(RunFolder(both.theirs).records())["fate"]
    assert {"kept", "choice_only"} < set(fates)
    call("show", both.theirs)
    assert "pruned" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["gate", str(both.theirs)])
    assert stopped.value.code in (0, 1, 3)
    assert "pruned" in capsys.readouterr().out


def call(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code
