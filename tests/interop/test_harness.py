"""The way there and back through the real lm-evaluation-harness: the same questions, answers and scores."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from anomia.cli import main
from anomia.interop.as_run import import_run
from anomia.interop.lm_eval_tasks import export_tasks
from anomia.run_folder import RunFolder
from tests.peers import peer

pytestmark = pytest.mark.slow


def harness() -> str:
    """The harness's program: the one that ANOMIA_LM_EVAL names, one on the PATH, or the peer's."""
    found = os.environ.get("ANOMIA_LM_EVAL") or shutil.which("lm-eval")
    return found or str(peer("lm-eval").with_name("lm-eval"))


def evaluate(program: str, exported: str, model: Path, out: Path) -> Path:
    """Runs the command that the export says on a model and returns where the harness wrote its samples."""
    said = exported.replace("pretrained=MODEL", f"pretrained={model},dtype=float32").removesuffix("OUT")
    command = [program, *shlex.split(said)[1:], str(out), "--batch_size", "4", "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.parametrize("chat", [False, True])
def test_the_harness_sees_what_anomia_sees(model_folder: Path, tmp_path: Path, chat: bool) -> None:
    program = harness()
    pruned = tmp_path / "pruned"
    call("prune", model_folder, pruned, "--method", "magnitude", "--sparsity", "0.5")
    study = ["--data", "demo", "--languages", "english,russian", "--limit", "8", "--probes", "open,choice"]
    study += ["--chat"] if chat else []
    call("run", "--base", model_folder, "--arm", f"checkpoint:{pruned}", *study, "--out", tmp_path / "run")
    exported = export_tasks(tmp_path / "run", tmp_path / "tasks")
    assert len(exported.names) == 4
    assert ("--apply_chat_template" in exported.command) == chat
    models = {
        name: [evaluate(program, exported.command, model, tmp_path / name)]
        for name, model in (("base", model_folder), ("pruned", pruned))
    }
    found = import_run("lm-eval", models, tmp_path / "imported")
    assert (found.questions, found.languages, found.by) == (16, ("english", "russian"), "hash")
    assert not any(found.excluded.values())
    ours, theirs = (
        RunFolder(tmp_path / name).records().sort("arm", "question") for name in ("run", "imported")
    )
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
