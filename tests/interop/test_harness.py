"""The way there and back through the real lm-evaluation-harness: the same questions, answers and scores."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from anomia.cli import main
from anomia.interop.as_run import import_run
from anomia.interop.lm_eval_tasks import export_tasks
from anomia.records import read_records

HARNESS = os.environ.get("ANOMIA_LM_EVAL") or shutil.which("lm-eval")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        HARNESS is None,
        reason="needs lm-evaluation-harness: install lm-eval, or name its lm-eval in ANOMIA_LM_EVAL",
    ),
]


def evaluate(model: Path, tasks: Path, out: Path) -> Path:
    """Runs the harness on a model and returns where it wrote its samples."""
    command = [
        str(HARNESS), "run", "--model", "hf",
        # The harness leaves the BOS out unless it is asked for.
        "--model_args", f"pretrained={model},dtype=float32,add_bos_token=True",
        "--tasks", "anomia", "--include_path", str(tasks), "--batch_size", "4", "--device", "cpu",
        "--log_samples", "--output_path", str(out),
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_harness_sees_what_anomia_sees(model_folder: Path, tmp_path: Path) -> None:
    pruned = tmp_path / "pruned"
    call("prune", model_folder, pruned, "--method", "magnitude", "--sparsity", "0.5")
    study = ["--data", "demo", "--languages", "english,russian", "--limit", "8", "--probes", "open,choice"]
    call("run", "--base", model_folder, "--arm", f"checkpoint:{pruned}", *study, "--out", tmp_path / "run")
    assert len(export_tasks(tmp_path / "run", tmp_path / "tasks")) == 4
    models = {
        name: [evaluate(model, tmp_path / "tasks", tmp_path / name)]
        for name, model in (("base", model_folder), ("pruned", pruned))
    }
    found = import_run("lm-eval", models, tmp_path / "imported")
    assert (found.questions, found.languages, found.by) == (16, ("english", "russian"), "hash")
    assert not any(found.left_out.values())
    ours, theirs = (read_records(tmp_path / name).sort("arm", "question") for name in ("run", "imported"))
    assert ours["question"].to_list() == theirs["question"].to_list()
    assert ours["choice_pick"].to_list() == theirs["choice_pick"].to_list()
    assert ours["choice_correct"].to_list() == theirs["choice_correct"].to_list()
    assert ours["open_correct"].to_list() == theirs["open_correct"].to_list()
    assert ours["open_text"].to_list() == theirs["open_text"].to_list()
    for mine, its in zip(ours["choice_scores"], theirs["choice_scores"], strict=True):
        assert its.to_list() == pytest.approx(mine.to_list(), abs=1e-3)
    call("show", tmp_path / "imported")


def call(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code
