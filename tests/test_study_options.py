"""A field of a study says everything about its flag: each command shows it, reads it and writes it again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from anomia.cli import main
from anomia.cli.app import app
from anomia.cli.options import FlagSections, GivenFlags, with_study_options
from anomia.cli.run_options import RUN_FLAGS
from anomia.errors import StudyError
from anomia.matrix import read_matrix
from anomia.study import FLAGS, Study

EVERY = FlagSections("models", "questions", "draw", "machine", "asking", "calibration", "chat", "code")
VALUES: dict[str, Any] = {
    "base": "model", "arms": ("wanda:0.5", "wanda:2:4"), "data": "xquad", "data_folder": "some folder",
    "languages": ("english", "thai"), "limit": 7, "seed": 3, "probes": ("open", "choice"), "dtype": "float16",
    "device": "cuda:1", "batch_size": 4, "engine": "tree", "trust_remote_code": True, "revision": "main", "chat": True,
    "calibration": "demo", "calibration_samples": 5, "calibration_tokens": 6, "calibration_folder": "another folder",
    "calibration_budget": 8, "sample_seeds": 2, "until_width": 0.25,
    "system": "Be brief.", "chat_template": "{{ messages }}", "dense": ("model.layers.1.mlp.up_proj", "lm_head"),
}  # fmt: skip


def settings_from(words: list[str]) -> GivenFlags:
    """What `anomia run` makes of its flags."""
    found: list[GivenFlags] = []

    def run(*, given: Annotated[GivenFlags, EVERY]) -> None:
        found.append(given)

    application = typer.Typer()
    application.command()(with_study_options(run))
    done = CliRunner().invoke(application, words)
    assert done.exit_code == 0, done.output
    return found[0]


def test_every_flag_gives_its_field_the_value_and_is_written_as_it_is_read() -> None:
    study = Study(**VALUES)
    dumped = study.model_dump(mode="json")
    given = [name for name in FLAGS if dumped[name] not in (None, False)]
    words = [word for name in given for word in FLAGS[name].words(name, dumped[name])]
    (cell,) = read_matrix(None, settings_from(words)).cells
    assert cell.study == study


def test_nothing_given_is_nothing_said() -> None:
    assert settings_from([]) == {}


@pytest.mark.parametrize("command", ["run", "compare", "plan"])
def test_each_command_has_the_flags_that_name_it_and_no_others(command: str) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    options = {name for each in commands[command].params for name in each.opts}
    for name, flag in FLAGS.items():
        assert (flag.option(name) in options) == (command in flag.commands), name
        assert set(flag.commands) <= set(commands)
        assert set(flag.help_on) <= set(flag.commands)


@pytest.mark.parametrize("command", ["run", "compare", "demo", "show", "report", "gate"])
def test_an_option_of_several_commands_is_written_once(command: str) -> None:
    params = {name: each for each in get_command(app).commands[command].params for name in each.opts}  # type: ignore[attr-defined]
    for name, (flag, _, _) in RUN_FLAGS.items():
        option = flag.option(name)
        if command in flag.commands:
            assert params[option].metavar == flag.metavar
    if command in ("run", "compare"):
        written = {flag.option(name) for name, flag in FLAGS.items()}
        written |= {each.flag.option(name) for name, each in RUN_FLAGS.items()}
        assert {name for name in params if name.startswith("--")} <= written


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(get_command(app).commands))])  # type: ignore[attr-defined]
def test_help_shows_no_types_of_python(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}).output
    assert "--help" in shown
    assert not re.findall(r"<[\w\[\]. ]+>", shown)


def test_every_value_has_a_metavar() -> None:
    without = [
        (name, each.opts)
        for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
        for each in command.params
        if not each.metavar and not getattr(each, "is_flag", False)
    ]
    assert without == []


def test_texts_tell_the_default_of_the_field() -> None:
    (limit,) = [each for each in get_command(app).commands["run"].params if each.name == "limit"]  # type: ignore[attr-defined]
    assert limit.help == f"Items per language (default {Study.model_fields['limit'].default})."


def test_all_faults_of_flags_come_in_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--base", "x", "--arm", "wnada:0.5", "--batch-size", "many", "--engine", "fast", "--limit", "0",
              "--languages", "english", "--data", "tydiqua", "--out", str(tmp_path / "r")])  # fmt: skip
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    for fault in ("has 5 faults", "did you mean 'wanda'", "batch_size is auto or a whole number from 1; got 'many'",
                  "engine is one of", "limit must be at least 1", "did you mean 'tydiqa'"):  # fmt: skip
        assert fault in said


def test_several_values_make_several_cells_and_one_makes_a_study() -> None:
    one = read_matrix(None, settings_from(["--base", "a", "--arm", "wanda:0.5"]))
    assert one.single
    two = read_matrix(None, settings_from(["--base", "a", "--base", "b", "--arm", "wanda:0.5"]))
    assert [cell.study.base for cell in two.cells] == ["a", "b"]
    with pytest.raises(StudyError, match="'base' is missing"):
        read_matrix(None, settings_from(["--arm", "wanda:0.5"]))


def test_flags_and_help_need_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "polars", "datasets", "numpy")
    code = f"import sys, anomia.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
