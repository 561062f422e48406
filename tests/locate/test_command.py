"""`anomia locate`."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
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


def test_a_spoiled_norm_is_found_named_and_said_to_be_no_matrix(
    model_folder: Path,
    spoiled_norm: Path,
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It was taken by every order at every budget, so that random orders seemed to find it as well."""
    file, out = tmp_path / "dense.json", tmp_path / "run"
    asked = ["locate", str(model_folder), str(spoiled_norm), "--among", "lost", "--dtype", "float32"]
    asked += ["--data", f"jsonl:{questions}", "--items", "12", "--draws", "2"]
    assert stopped([*asked, "--out", str(out), "--keep", str(file)]) == 0
    shown = capsys.readouterr()
    assert "model.norm is enough (less than 1 %). The change of outputs finds it as well" in shown.out
    assert "less than 1 % of the differing weights" in shown.out
    assert "model.norm (norm)" in shown.out
    assert shown.err.index("measuring both models and then locating") < shown.err.index("loading")
    kept = json.loads(file.read_text())
    assert kept["dense"] == []
    assert "model.norm (norm)" in kept["notes"][0]
    (arm,) = (out / "locate").iterdir()
    curve = pl.read_parquet(arm / "curve.parquet").filter(pl.col("group") == "demoted")
    right = {
        order: part.sort("share")["right"].to_list()[1:-1]
        for (order,), part in curve.group_by("order", maintain_order=True)
    }
    assert min(right["attribution"]) > 0.5
    assert right["depth"][0] < 0.2


def test_two_models_that_do_not_fit_are_refused_before_either_is_measured(
    model_folder: Path,
    spoiled: Path,
    questions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anomia.locate.plan.free_bytes", lambda device: 1000)
    asked = ["locate", str(model_folder), str(spoiled), "--among", "lost", "--data", f"jsonl:{questions}"]
    assert stopped([*asked, "--out", str(tmp_path / "run")]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "GB with gradients" in shown
    assert "loading" not in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["PK", "nobody/nothing", "two words", "./nothing"])
def test_a_compressed_model_that_is_not_there_is_refused_before_base_is_read(
    name: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["locate", str(model_folder), name, "--data", "demo", "--out", str(tmp_path / "run")]
    assert stopped(asked) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert repr(name) in shown
    assert "folder" in shown
    assert "loading" not in shown
    assert not (tmp_path / "run").exists()


def test_the_folder_of_an_arm_is_named_like_its_other_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.located("wanda:0.5").path.name == folder.notes.of_arm("wanda:0.5").path.stem
