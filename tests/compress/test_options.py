"""The options of compression are said once: flags, settings of a folder and calibration follow from their fields."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from anomia.cli.app import app
from anomia.cli.compress_options import How, folder_options, with_folder_options
from anomia.compress.folder import _NOT_IN_SETTINGS, _plain_settings
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Prune
from anomia.flags import flagged

VALUES: dict[str, Any] = {
    "save_as": "compressed-tensors", "source": "demo", "samples": 3, "tokens": 32, "data_dir": Path("some folder"),
    "budget": 9, "languages": ["english", "thai"], "dtype": "float16", "device": "cuda:1",
    "perplexity_text": Path("a text"), "perplexity_tokens": 7,
}  # fmt: skip


def options_from(words: list[str]) -> FolderOptions:
    """What `anomia compress` makes of its flags."""
    found: list[FolderOptions] = []

    def compress(*, how: How) -> None:
        found.append(folder_options(how))

    application = typer.Typer()
    application.command()(with_folder_options(compress))
    done = CliRunner().invoke(application, words)
    assert done.exit_code == 0, done.output
    return found[0]


def test_every_flag_gives_its_field_the_value() -> None:
    flags = flagged(FolderOptions)
    words = [word for name, value in VALUES.items() for word in flags[name].flag.words(name, value)]
    found = options_from(words)
    for name, value in VALUES.items():
        assert getattr(found if hasattr(found, name) else found.text, name) == value


def test_nothing_given_leaves_the_defaults() -> None:
    assert options_from([]) == FolderOptions()


@pytest.mark.parametrize("command", ["compress", "prune"])
def test_each_command_has_the_flags_that_name_it(command: str) -> None:
    found = {name for each in get_command(app).commands[command].params for name in each.opts}  # type: ignore[attr-defined]
    for name, each in flagged(FolderOptions).items():
        assert (each.flag.option(name) in found) == (command in each.flag.commands), name


@pytest.mark.parametrize("words", [["--calibration-tokens", "0"], ["--perplexity-tokens", "1"]])
def test_numbers_that_are_too_small_are_refused(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["prune", "model", "out", *words])
    assert done.exit_code == 2
    assert words[0] in done.output, done.output


def test_a_step_wins_over_the_options() -> None:
    (step,) = parse_arm("wanda:0.5,calibration=demo,tokens=64").steps
    assert isinstance(step, Prune)
    given = TextOptions(source="c4", samples=5, tokens=32, languages=["english"])
    assert given.under(step.calibration) == TextOptions(
        source="demo", samples=5, tokens=64, languages=["english"]
    )


def test_settings_of_a_folder_have_every_option_that_can_change_it() -> None:
    steps = parse_arm("wanda:0.5+int8").steps
    found = _plain_settings("model", steps, FolderOptions(text=TextOptions(languages=["thai"])))
    said = {
        "model": "model", "step": "wanda:0.5+int8", "calibration": "c4", "samples": None, "tokens": 2048, "budget": None,
        "language": None, "languages": ["thai"], "dtype": "auto", "device": "cpu", "save_as": "dense", "batch_tokens": 1024,
    }  # fmt: skip
    assert said.items() <= found.items()
    names = {field.name for part in (FolderOptions, TextOptions) for field in fields(part)} - {
        "text",
        "source",
    }
    assert names - set(_NOT_IN_SETTINGS) == set(found) - {"model", "step", "calibration"}
