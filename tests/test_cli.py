"""The command line as a user meets it: one message and exit code 2, never a traceback."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anomia.compress.lock import only_writer
from anomia.models.load import load_model
from anomia.report.export import FIRST_COLUMNS
from tests.command import anomia
from tests.conftest import entry

Write = Callable[..., Path]
SMALL = ["--limit", "5", "--calibration", "demo", "--calibration-samples", "2", "--calibration-tokens", "32"]


@pytest.fixture(autouse=True, scope="module")
def _wide_terminal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        yield


def test_as_a_process_a_fault_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anomia.cli", "show", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: run:")
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A run made by the command line itself."""
    folder = tmp_path_factory.mktemp("cli")
    data = folder / "questions.jsonl"
    entries = [entry(n, language) for language in ("english", "swahili") for n in range(9)]
    data.write_text("".join(json.dumps(line) + "\n" for line in entries))
    done = anomia("run", "--base", model_folder, "--arm", "wanda:0.5", "--data", f"jsonl:{data}", *SMALL,
                  "--out", folder / "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wanda:0.5" in done.stdout
    assert str(folder / "run" / "results.json") in done.stdout
    return folder / "run"


def test_help_is_there_for_every_command() -> None:
    for command in ((), ("run",), ("demo",), ("show",), ("items",), ("export",)):
        done = anomia(*command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout


def test_a_run_can_be_repeated_from_its_own_study_file(finished: Path, tmp_path: Path) -> None:
    again = anomia("run", finished / "study.yaml", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert anomia("export", finished, one).returncode == 0
    assert anomia("export", tmp_path / "again", two).returncode == 0
    assert one.read_text() == two.read_text()


def test_export_has_the_promised_columns_first(finished: Path, tmp_path: Path) -> None:
    done = anomia("export", finished, tmp_path / "rows.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(FIRST_COLUMNS)] == FIRST_COLUMNS
    assert len(rows) == 20
    assert {row["fate"] for row in rows if row["arm"] == "base"} == {""}
    for ending in (".parquet", ".jsonl"):
        assert anomia("export", finished, tmp_path / f"rows{ending}").returncode == 0


def test_items_and_tables_can_be_looked_at(finished: Path) -> None:
    done = anomia("items", finished, "--language", "sw", "--limit", "2")
    assert done.returncode == 0, done.stderr
    assert "2 of 5 items" in done.stdout
    assert "question" in done.stdout
    assert anomia("show", finished).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--base", "./nowhere"], "no folder './nowhere'"),
        (["--arm", "./nowhere"], "a folder or a file is an arm as checkpoint:./nowhere"),
        (["--arm", "checkpoint:./nowhere"], "no folder './nowhere'"),
        (["--base", "nobody/nothing-of-this-name"], "can't be loaded"),
        (["--arm", "wnada:0.5"], "did you mean 'wanda'"),
        (["--arm", "wanda:1"], "sparsity must lie between 0 and 1"),
        (["--data", "tydiqua"], "did you mean 'tydiqa'"),
        (["--languages", "swahli"], "no language 'swahli'"),
        (["--probes", "opn"], "did you mean 'open'"),
        (["--batch-size", "many"], "batch_size"),
        (["--dtype", "float8"], "dtype"),
        (["--device", "gpu"], "unknown device"),
        (["--limit", "0"], "limit"),
        (["--calibration", "file:/nowhere"], "/nowhere"),
        (["--calibration", "c5"], "unknown calibration source 'c5'"),
        (["--calibration", "c4"], "c4"),
        (["--arm", "wanda:0.5,calibration=file:/nowhere"], "/nowhere"),
        (["--languages", ","], "languages"),
        (["--batch-size=--5"], "batch_size"),
    ],
)
def test_bad_input(
    arguments: list[str], says: str, model_folder: Path, write_jsonl: Write, tmp_path: Path
) -> None:
    data = write_jsonl([entry(n) for n in range(9)])
    base = [] if "--base" in arguments else ["--base", str(model_folder)]
    arm = [] if "--arm" in arguments else ["--arm", "wanda:0.5"]
    questions = [] if "--data" in arguments else ["--data", f"jsonl:{data}"]
    small = [*SMALL[:2], *([] if "--calibration" in arguments else SMALL[2:4])]
    done = anomia("run", *base, *arm, *questions, *small, *arguments, "--out", tmp_path / "run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_without_weights_and_one_with_pickle(model_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((model_folder / "config.json").read_text())
    done = anomia("run", "--base", bare, "--arm", "magnitude:0.5")
    assert (done.returncode, "has no weights" in done.stderr) == (2, True)
    (bare / "pytorch_model.bin").touch()
    done = anomia("run", "--base", bare, "--arm", "magnitude:0.5")
    assert (done.returncode, "as pickle only" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "{}"],
        ["compare", "./nowhere", "{}"],
        ["run", "--base", "{}", "--arm", "magnitude:0.5", "--data", "demo", "--out", "out"],
        ["run", "--base", "./nowhere", "--arm", "wanda:0.5", "--data", "demo", "--calibration", "file:{}", "--out", "out"],
        ["run", "--base", "./nowhere", "--arm", "wanda:0.5", "--data", "jsonl:{}", "--out", "out"],
        ["run", "--base", "./nowhere", "--arm", "wanda:0.5", "--data", "demo", "--out", "{}"],
    ],
)  # fmt: skip
def test_a_path_that_the_system_refuses(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "x" * 300
    seen = anomia(*(argument.format(name) for argument in arguments))
    assert seen.returncode == 2, seen
    assert seen.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in seen.stderr
    assert list(tmp_path.iterdir()) == []


def test_commands_on_something_that_is_no_run(tmp_path: Path) -> None:
    for command in (["show", tmp_path], ["items", tmp_path], ["export", tmp_path, tmp_path / "x.csv"]):
        done = anomia(*command)
        assert done.returncode == 2
        assert "run:" in done.stderr
        assert "Traceback" not in done.stderr


def test_what_is_asked_of_items_must_be_there(finished: Path, tmp_path: Path) -> None:
    for arguments, says in (
        (["--fate", "gone"], "unknown fate"),
        (["--language", "finnish"], "no language 'finnish'"),
        (["--arm", "wanda:0.6"], "did you mean 'wanda:0.5'"),
    ):
        done = anomia("items", finished, *arguments)
        assert done.returncode == 2
        assert says in done.stderr
    assert anomia("export", finished, tmp_path / "x.xls").returncode == 2


def test_ctrl_c_ends_with_a_word_on_how_to_go_on(
    model_folder: Path, write_jsonl: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anomia.running.shard.write_rows", interrupted)
    data = write_jsonl([entry(n) for n in range(9)])
    command = ["run", "--base", model_folder, "--arm", "magnitude:0.5", "--data", f"jsonl:{data}", *SMALL[:2],
               "--out", tmp_path / "run"]  # fmt: skip
    done = anomia(*command)
    assert done.returncode == 130
    assert "run the same command again to resume" in done.stderr
    monkeypatch.undo()
    assert anomia(*command).returncode == 0


def test_prune_writes_an_ordinary_folder(model_folder: Path, tmp_path: Path) -> None:
    text = ["--calibration", "demo", "--calibration-samples", "3", "--calibration-tokens", "32"]
    done = anomia("prune", model_folder, tmp_path / "half", "--method", "wanda", "--pattern", "2:4", *text)
    assert done.returncode == 0, done.stderr
    assert "50.0%" in done.stdout
    assert "neither smaller nor faster" in done.stdout
    assert load_model(str(tmp_path / "half")).model.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "wnada"], "did you mean 'wanda'"),
        (["--method", "int8"], "int8"),
        (["--sparsity", "0.5", "--pattern", "2:4"], "not both"),
        (["--sparsity", "2"], "between 0 and 1"),
        (["--pattern", "2:5"], "inputs"),
        (["--calibration", "file:/nowhere"], "/nowhere"),
        (["--allocation", "owls"], "did you mean 'owl'"),
    ],
)
def test_faults_of_prune(arguments: list[str], says: str, model_folder: Path, tmp_path: Path) -> None:
    text = [] if "--calibration" in arguments else ["--calibration", "demo"]
    done = anomia("prune", model_folder, tmp_path / "half", *text, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_compress_writes_a_chain_of_steps(model_folder: Path, tmp_path: Path) -> None:
    text = ["--calibration", "demo", "--calibration-samples", "3", "--calibration-tokens", "32"]
    steps = "shortgpt:0.5+wanda:0.5+update+gptq:4,group=16"
    packed = ["--save-as", "compressed-tensors"]
    done = anomia("compress", model_folder, tmp_path / "small", steps, *text, *packed)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("shortgpt:0.5: removed: ")
    assert said[1].startswith("wanda:0.5+update: 50.0% of the weights of 7 matrices are zero")
    assert said[2].startswith("gptq:4,group=16: 7 matrices are rounded")
    loaded = load_model(str(tmp_path / "small"))
    assert loaded.model.config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["wnada:0.5"], "did you mean 'wanda'"),
        (["base"], "nothing to do"),
        (["gptq:4"], "gptq:4,group="),
        (["wanda:0.5", "--save-as", "compressed-tensors"], "--save-as"),
        (["gptq:4,group=16", "--save-as", "gguf"], "unknown --save-as 'gguf'"),
        (["slicegpt:0.9999"], "slicegpt"),
        (["checkpoint:x"], "a complete model"),
        (["dropexperts:0.5"], "experts"),
    ],
)
def test_faults_of_compress(arguments: list[str], says: str, model_folder: Path, tmp_path: Path) -> None:
    done = anomia("compress", model_folder, tmp_path / "small", *arguments, "--calibration", "demo")
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "small").exists()


def test_prune_does_not_write_over_what_is_there(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "thesis.tex").write_text("mine")
    done = anomia("prune", model_folder, tmp_path / "half", "--method", "magnitude")
    assert done.returncode == 2
    assert (tmp_path / "half" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("command", [["prune"], ["compress"]])
def test_a_folder_that_another_process_writes_is_left_alone(
    command: list[str], model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small"
    steps = ["magnitude:0.5"] if command == ["compress"] else []
    with only_writer(out, out / ".anomia-unfinished"):
        done = anomia(*command, model_folder, out, *steps, *(["--method", "magnitude"] if not steps else []))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"another anomia (process {os.getpid()}) is writing" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert (
        anomia(
            *command, model_folder, out, *steps, *(["--method", "magnitude"] if not steps else [])
        ).returncode
        == 0
    )
