"""What the commands of a page need at hand, and their results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import anomia
from tests.conftest import entry
from tests.docs.commands import ROOT, Command, Ran, Treatment
from tests.docs.hub import make_calibration, make_hub


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Ran:
    """Exit code and output of each command that a module runs, by page, line and text."""
    home = tmp_path_factory.mktemp("hub")
    environment = {
        **os.environ,
        **make_hub(home, model_folder),
        "COLUMNS": "160",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    }
    calibration = make_calibration(home / "calibration")
    data = home / "questions.jsonl"
    data.write_text(
        "".join(
            json.dumps(entry(n, language)) + "\n" for language in ("english", "swahili") for n in range(6)
        )
    )
    finished = home / "finished"
    anomia.run(
        base=model_folder, arms=["magnitude:0.5"], data=f"jsonl:{data}", limit=4, out=finished, progress=False
    )
    # Of the pages that are asked for: `pytest -k start` runs the commands of one page.
    running = [item.callspec.params for item in request.session.items if item.parent is request.node]
    jobs = []
    for page in dict.fromkeys(each["command"].page for each in running):
        mine = [(each["command"], each["done"]) for each in running if each["command"].page == page]
        folder = home / Path(page).stem
        folder.mkdir()
        prepare(folder, ROOT / page, mine, model_folder, data, finished, calibration)
        jobs += [(command, folder, list(done.words)) for command, done in mine]
    results = drive([(folder, words) for _, folder, words in jobs], environment)
    return {(c.page, c.line, c.text): result for (c, _, _), result in zip(jobs, results, strict=True)}


def drive(jobs: list[tuple[Path, list[str]]], environment: dict[str, str]) -> list[tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.driver"],
        input=json.dumps([(str(folder), words) for folder, words in jobs]),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr
    return [(code, said) for code, said in json.loads(done.stdout)]


def prepare(
    folder: Path,
    page: Path,
    mine: list[tuple[Command, Treatment]],
    model: Path,
    data: Path,
    run: Path,
    calibration: Path,
) -> None:
    """What a reader of the page has at hand: models, questions, studies, and runs that the page doesn't make."""
    for name in ("MODEL", "model", "my-pruned-qwen", "BASE", "COMPRESSED"):
        shutil.copytree(model, folder / name)
    write_adapter(folder / "my-lora")
    shutil.copy(data, folder / "questions.jsonl")
    (folder / "own.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Count to {n}.", "reference": str(n)}) + "\n" for n in range(6))
    )
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps({"text": f"How many are {n}? {n} are {n}. " * 20}) + "\n" for n in range(8))
    )
    (folder / "dev.en.json").write_text(in_squad_format("english"))
    local = folder / "DATA" / "tydiqa_goldp" / "dev"
    local.mkdir(parents=True)
    (local / "dev.english.json").write_text(in_squad_format("english"))
    rows = [f"What is {n} of 9?,{n},red{n},green{n},blue{n},A" for n in range(6)]
    (folder / "questions.csv").write_text("\n".join(["question,A,B,C,D,answer", *rows]))
    sums = [json.dumps({"question": f"{n} + {n}?", "answer": f"#### {2 * n}"}) for n in range(3, 9)]
    (folder / "gsm8k.jsonl").write_text("\n".join(sums))
    (folder / "CALIBRATION").symlink_to(calibration)
    shutil.copytree(ROOT / "studies", folder / "studies")
    for block in re.findall(
        r"^```ya?ml\n(base:.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        (folder / "study.yaml").write_text(block)
    written = {words[words.index("--out") + 1] for _, (_, words, _) in mine if "--out" in words}
    for name in {"RUN", "OTHER", "anomia-demo"} - written:
        shutil.copytree(run, folder / name)


def write_adapter(folder: Path) -> None:
    """A LoRA of the tiny model, as peft saves it."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "Qwen/Qwen3-0.6B"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora"
    factors = {f"{name}_A.weight": torch.ones(2, 32), f"{name}_B.weight": torch.full((32, 2), 0.1)}
    save_file(factors, folder / "adapter_model.safetensors")


def in_squad_format(language: str) -> str:
    articles = []
    for n in range(6):
        line = entry(n, language)
        question = {
            "id": str(n), "question": line["question"], "answers": [{"text": line["answers"][0]}],
        }  # fmt: skip
        articles.append({"paragraphs": [{"context": line["context"], "qas": [question]}]})
    return json.dumps({"data": articles})
