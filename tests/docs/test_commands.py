"""Every command of the README and the docs works: run on tiny models, or parsed where it can't be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file

from anomia.cli.app import app
from tests.conftest import entry
from tests.docs.commands import PAGES, ROOT, Command, Treatment, commands, treatment
from tests.docs.hub import make_calibration, make_hub

ALL = [(command, treatment(command)) for page in PAGES for command in commands(page)]


def of(*kinds: str) -> Any:
    chosen = [(command, done) for command, done in ALL if done.kind in kinds]
    names = [f"{command.page}:{command.line}" for command, _ in chosen]
    return pytest.mark.parametrize(("command", "done"), chosen, ids=names)


def test_the_pages_show_commands_and_each_is_accounted_for() -> None:
    assert len(ALL) > 30
    assert {done.kind for _, done in ALL} <= {"run", "parse", "flags", "make", "pip", "python", "told"}
    assert sum(done.kind == "run" for _, done in ALL) > 20
    with pytest.raises(LookupError):
        treatment(Command("x.md", 1, "anomai run", False))


def test_extraction_joins_lines_and_drops_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.commands.ROOT", tmp_path)
    page = tmp_path / "x.md"
    page.write_text(
        "```sh\nanomia run \\\n  --base x  # why\n$ make a && make b\n```\nand `anomia show RUN`\n"
    )
    assert [(found.text, found.line) for found in commands(page)] == [
        ("anomia run --base x", 3), ("make a", 4), ("make b", 4), ("anomia show RUN", 6),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_folder: Path
) -> dict[tuple[str, int, str], Any]:
    """Exit code and output of each command that is run, by page, line and text."""
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
    first = ["run", "--base", str(model_folder), "--arm", "magnitude:0.5", "--data", f"jsonl:{data}", "--limit", "4",
             "--out", str(finished)]  # fmt: skip
    (made,) = drive([(home, first)], environment)
    assert made[0] == 0, made[1]
    # Of the pages that are asked for: `pytest -k start` runs the commands of one page.
    running = [item for item in request.session.items if item.name.startswith("test_run[")]
    asked = {item.callspec.params["command"].page for item in running}
    jobs = []
    for page in PAGES:
        if str(page.relative_to(ROOT)) not in asked:
            continue
        mine = [
            (command, done)
            for command, done in ALL
            if command.page == str(page.relative_to(ROOT)) and done.kind == "run"
        ]
        if not mine:
            continue
        folder = home / page.stem
        folder.mkdir()
        prepare(folder, page, mine, model_folder, data, finished, calibration)
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@of("run")
def test_run(command: Command, done: Treatment, ran: dict[tuple[str, int, str], Any]) -> None:
    code, said = ran[command.page, command.line, command.text]
    allowed = (0, 1, 3) if done.words[0] == "gate" else (0,)
    assert code in allowed, f"{command.text}: exit code {code}\n{said[-3000:]}"


@of("parse")
def test_parse(command: Command, done: Treatment) -> None:
    """Every flag exists and has a value of its type; nothing is executed."""
    group: Any = typer.main.get_command(app)
    name, *rest = done.words
    found = group.get_command(None, name)
    assert found is not None, f"there is no command {name!r}"
    found.make_context(name, rest)


@of("flags")
def test_flags(command: Command, done: Treatment) -> None:
    group: Any = typer.main.get_command(app)
    found = group.get_command(None, done.words[0])
    assert found is not None, f"there is no command {done.words[0]!r}"
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in done.words if re.match(r"--[a-z]", word)} <= known | {"--help"}


@of("make")
def test_make(command: Command, done: Treatment) -> None:
    run = subprocess.run(
        ["make", "--dry-run", *done.words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    group: Any = typer.main.get_command(app)
    for line in run.stdout.splitlines():
        if match := re.search(r"bin/anomia (\w+) ?(.*)", line):
            group.get_command(None, match[1]).make_context(match[1], match[2].split())


@of("pip", "python")
def test_what_a_line_names_exists(command: Command, done: Treatment) -> None:
    if done.kind == "python":
        assert (ROOT / done.words[0]).is_file()
        return
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in done.words:
        for found in re.findall(r"\[([\w,]+)\]", word):
            assert set(found.split(",")) <= extras.keys(), word
