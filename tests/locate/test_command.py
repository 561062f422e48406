"""`anomia locate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomia.cli import main
from anomia.run_folder import RunFolder

from .conftest import PLANTED


def stopped(arguments: list[str]) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as found:
        main(arguments)
    return int(found.value.code or 0)


def test_a_run_is_located_from_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dense.json"
    asked = ["locate", str(run), "--arm", "spoiled", "--among", "lost", "--items", "12", "--draws", "1"]
    assert stopped([*asked, "--keep", str(file)]) == 0
    shown = capsys.readouterr()
    assert "locating needs up to" in shown.err
    assert PLANTED in shown.out
    (arm,) = (run / "locate").iterdir()
    sentence = json.loads((arm / "located.json").read_text())["sentence"]
    assert sentence in " ".join(shown.out.split())
    assert PLANTED in json.loads(file.read_text())["dense"]
    for name in ("located_map", "located_restoration", "located_lens"):
        assert (arm / "figures" / f"{name}.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a run and --arm"),
        (["--arm", "x", "--points", "4"], "give 5"),
        (["--arm", "x", "--among", "chosen"], "choice_only"),
        (["--arm", "spoiled", "--data", "demo"], "already measured"),
        (["--arm", "spoilt"], "has no arm 'spoilt'"),
    ],
)
def test_bad_input_is_refused_in_one_message(
    run: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped(["locate", str(run), *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_model_that_does_not_fit_is_refused_with_the_memory_it_needs(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomia.locate.plan.free_bytes", lambda device: 1000)
    assert stopped(["locate", str(run), "--arm", "spoiled", "--among", "lost"]) == 2
    assert "GB with gradients" in " ".join(capsys.readouterr().err.split())


def test_the_folder_of_an_arm_is_named_like_its_other_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.located("wanda:0.5").path.name == folder.notes.of_arm("wanda:0.5").path.stem
