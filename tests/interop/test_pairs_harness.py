"""Pairs of tasks through the real lm-evaluation-harness: what it says of every item and of each task is what is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from anomia.cli import main
from anomia.measure.figures import find
from anomia.measure.frame import POOLED
from anomia.measure.recognition import with_fates
from anomia.measure.results import read_results
from anomia.run_folder import RunFolder
from tests.interop import scripted_harness
from tests.interop.test_pairs import EVERY, FIXTURE, log_of, results_of, rows_of
from tests.peers import peer

pytestmark = pytest.mark.slow
MODELS = ("base", "arm")
COUNT = 18


def evaluate(folder: Path, program: list[str], tasks: str, out: Path, *arguments: str) -> None:
    """Runs the harness in a folder, whose data sets it finds before the hub's."""
    command = [
        str(peer("lm-eval")),
        *program,
        "run",
        "--tasks",
        tasks,
        "--log_samples",
        "--output_path",
        str(out),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out.parent / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env={**os.environ, **offline}, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def prompt(number: int) -> str:
    return f"Q: Who founded Place{number}?\nA:"


def first_lines(model: Path) -> list[str]:
    """What a model writes after each prompt, up to the first line break."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model).float()
    said = []
    for number in range(COUNT):
        tokens = tokenizer(prompt(number), return_tensors="pt")
        output = loaded.generate(**tokens, max_new_tokens=6, do_sample=False)[
            0, tokens["input_ids"].shape[1] :
        ]
        said.append(tokenizer.decode(output, skip_special_tokens=True).partition("\n")[0].strip())
    return said


def write_tasks(folder: Path, said: list[str]) -> None:
    """A generation and a multiple-choice task over one file; base says the gold answer of two questions in three."""
    folder.mkdir()
    rows = []
    for number, text in enumerate(said):
        gold = text if number % 3 and text else f"nobody {number}"
        options = [gold, *(f"{said[(number + k) % COUNT]} or {k}" for k in (1, 2, 3))]
        at = number % 4
        rows.append(
            {
                "question": f"Who founded Place{number}?",
                "gold": gold,
                "options": options[-at:] + options[:-at] if at else options,
                "label": at,
            }
        )
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "own.jsonl")}},
        "test_split": "test",
        "doc_to_text": "Q: {{question}}\nA:",
        "num_fewshot": 0,
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    tasks: dict[str, dict[str, Any]] = {
        "own_gen": {
            "output_type": "generate_until",
            "doc_to_target": "{{gold}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
            "metric_list": [
                {"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True, **mean}
            ],
        },
        "own_mc": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "{{label}}",
            "metric_list": [{"metric": "acc", **mean}],
        },
    }
    for name, task in tasks.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **task}))


def call(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code


def test_a_local_pair_on_two_models(model_folder: Path, tmp_path: Path) -> None:
    peer("lm-eval")
    models = {"base": model_folder, "arm": tmp_path / "pruned"}
    call("prune", model_folder, models["arm"], "--method", "magnitude", "--sparsity", "0.3")
    write_tasks(tmp_path / "tasks", first_lines(model_folder))
    logs = tmp_path / "logs"
    for name, model in models.items():
        evaluate(
            tmp_path, ["-m", "lm_eval"], "own_gen,own_mc", logs / name, "--model", "hf", "--model_args",
            f"pretrained={model},dtype=float32", "--include_path", str(tmp_path / "tasks"), "--device", "cpu",
        )  # fmt: skip
    run = tmp_path / "run"
    call("import", "lm-eval", "--base", logs / "base", "--arm", f"arm={logs / 'arm'}", "--out", run)

    marks: dict[tuple[str, str], tuple[bool, bool]] = {}
    records = RunFolder(run).records()
    for name in MODELS:
        files = {task: next((logs / name).rglob(f"samples_{task}_*.jsonl")) for task in ("own_gen", "own_mc")}
        rows = {
            task: [json.loads(line) for line in file.read_text().splitlines()] for task, file in files.items()
        }
        said = {row["doc"]["question"]: bool(row["exact_match"]) for row in rows["own_gen"]}
        picked = {row["doc"]["question"]: bool(row["acc"]) for row in rows["own_mc"]}
        assert len(said) == COUNT
        marks |= {(name, question): (said[question], picked[question]) for question in said}
        results = json.loads(next((logs / name).rglob("results_*.json")).read_text())["results"]
        mine = records.filter(pl.col("arm") == name)
        assert mine["open_correct"].mean() == pytest.approx(results["own_gen"]["exact_match,none"])
        assert mine["choice_correct"].mean() == pytest.approx(results["own_mc"]["acc,none"])
    found = {(arm, question): (said, picked) for arm, question, said, picked in records.select(
        "arm", "question", "open_correct", "choice_correct").iter_rows()}  # fmt: skip
    assert found == marks

    questions = [question for name, question in marks if name == "base"]
    names = {
        (True, True): "kept",
        (False, True): "choice_only",
        (True, False): "open_only",
        (False, False): "lost",
    }
    fates = Counter(names[marks["arm", q]] for q in questions if marks["base", q] == (True, True))
    assert fates.total() > 3
    assert fates.total() > fates["kept"]
    given = with_fates(records).filter(pl.col("arm") == "arm")["fate"].drop_nulls()
    assert dict(given.value_counts().iter_rows()) == dict(fates)

    def drop(side: int, floor: float) -> float:
        base, arm = (sum(marks[name, q][side] for q in questions) / COUNT for name in MODELS)
        return (base - arm) / (base - floor)

    gap = find(read_results(run).diagnosis.figures, "arm", "gap/choice", POOLED)
    assert gap is not None
    assert gap.value == pytest.approx(drop(0, 0.0) - drop(1, 1 / 4))
    assert records["open_options"].null_count() == len(records)


def test_the_stored_logs_are_what_the_tasks_write(tmp_path: Path) -> None:
    """But for the order of GPQA's options, which the harness draws."""
    program = [scripted_harness.__file__]
    peer("lm-eval")
    scripted_harness.write_data_sets(tmp_path / "hub")
    tasks = [*EVERY, *EVERY.values()]
    for name in MODELS:
        arguments = ["--model", "scripted", "--model_args", f"pretrained={name}"]
        evaluate(tmp_path / "hub", program, ",".join(tasks), tmp_path / "logs" / name, *arguments)
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", str(FIXTURE), str(tmp_path / "stored")], check=True
    )
    for name in MODELS:
        for task in tasks:
            if task.startswith("gpqa"):
                continue
            stored, written = (rows_of(tmp_path / part, name, task) for part in ("stored", "logs"))
            assert stored == written
            assert re.search(r"_\d{4}-\d\d-\d\dT", log_of(tmp_path / "logs", name, task).name)
        stored_results, written_results = (
            json.loads(results_of(tmp_path / part, name).read_text())["results"]
            for part in ("stored", "logs")
        )
        assert {task: stored_results[task] for task in tasks} == {
            task: written_results[task] for task in tasks
        }


def test_short_true_answers_are_wrong_by_bleu_and_right_by_rouge() -> None:
    program = (
        "import json, sys, os, lm_eval.tasks; "
        "sys.path.insert(0, os.path.join(os.path.dirname(lm_eval.tasks.__file__), 'truthfulqa')); import utils; "
        "doc = {'correct_answers': ['It is grey.'], 'incorrect_answers': ['It brings luck to all.']}; "
        "found = utils.process_results_gen(doc, [' It is grey']); "
        "print(json.dumps({name: float(found[name]) for name in ('bleu_acc', 'rouge1_acc')}))"
    )
    done = subprocess.run(
        [peer("lm-eval"), "-c", program], capture_output=True, text=True, check=True, timeout=600
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {"bleu_acc": 0.0, "rouge1_acc": 1.0}
