"""`anomia report` and `anomia view` as a user meets them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomia.report.naming import data_name, model_name
from anomia.report.page.facts import command
from tests.command import anomia
from tests.report.synthetic import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("cli") / "run", languages=("english",), items=12, arms=("wanda:0.5",)
    )


def test_a_report_is_a_page_with_figures_and_tables(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomia.cli.report.FORMATS", ("svg",))
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    done = anomia("report", run, "--open")
    assert done.returncode == 0, done.stderr
    page = run / "report" / "index.html"
    assert f"report: {page}" in done.stdout
    assert opened == [page.resolve().as_uri()]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {path.suffix for path in (run / "report" / "figures").iterdir()} == {".svg"}
    assert {path.suffix for path in (run / "report" / "tables").iterdir()} == {".csv", ".md", ".tex"}


def test_the_same_run_makes_the_same_page(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert anomia("report", run, "--out", tmp_path / name).returncode == 0
    one, two = ((tmp_path / name / "index.html").read_bytes() for name in ("one", "two"))
    assert one == two


def test_runs_of_one_name_stay_apart_in_one_report(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "elsewhere" / "run", ignore=shutil.ignore_patterns("report"))
    done = anomia("report", run, other, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert '"name":"run (2)"' in text
    assert not (other / "report").exists()


def test_an_arm_with_a_larger_vocabulary_than_base(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomia.cli.report.FORMATS", ())
    other = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    study = (other / "study.yaml").read_text()
    (other / "study.yaml").write_text(study.replace("vocabulary: 260000", "vocabulary: 60"))
    for arguments in (["report", other], ["show", other], ["gate", other]):
        done = anomia(*arguments)
        assert done.returncode in (0, 1, 3), done.stderr


def test_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in (["report", tmp_path], ["report", tmp_path / "nowhere"], ["view", tmp_path]):
        done = anomia(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: run:")
        assert "Traceback" not in done.stderr


def test_a_report_that_can_not_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    done = anomia("report", run, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "can't be written" in done.stderr


def test_a_port_that_is_taken_and_an_interface_that_is_not_here(run: Path) -> None:
    done = anomia("view", run, "--host", "203.0.113.7")
    assert done.returncode == 2
    assert "give another --port or --host" in done.stderr
    assert "can read this run" in done.stderr


def test_a_missing_extra_is_one_message(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = anomia("view", run)
    assert done.returncode == 2
    assert "pip install 'anomia[view]'" in done.stderr


def test_names_without_the_way_to_them() -> None:
    assert model_name("/home/me/.cache/gemma-3-270m-a5fd3b62230a") == "gemma-3-270m"
    assert model_name("google/gemma-3-270m") == "google/gemma-3-270m"
    assert model_name("C:\\models\\mine.gguf") == "mine.gguf"
    assert data_name("squad:/data/tydiqa/dev") == "squad: tydiqa/dev"
    assert data_name("demo") == "demo"


def test_the_command_that_asks_the_same_again() -> None:
    demo = {"base": "/x/gemma-3-270m-a5fd3b62230a", "arms": ["wanda:0.5"], "data": "demo", "calibration": "demo",
            "languages": ["english", "thai"], "limit": 24, "seed": 42}  # fmt: skip
    assert command(demo) == "anomia demo --languages english,thai --limit 24"
    assert command(demo | {"seed": 1}).startswith(
        "anomia run --base /x/gemma-3-270m-a5fd3b62230a --arm wanda:0.5"
    )
    own = {"base": "a model; rm -rf /", "arms": ["wanda:0.3", "wanda:2:4"], "data": "tydiqa", "limit": 200, "chat": True,
           "top_p": 0.9, "probes": ["open", "choice"]}  # fmt: skip
    assert command(own) == (
        "anomia run --base 'a model; rm -rf /' --arm wanda:0.3 --arm wanda:2:4 --data tydiqa "
        "--probes open,choice --chat"
    )
    assert command(own | {"top_p": 0.5}) == "anomia run RUN/study.yaml --out AGAIN"
    assert command(demo | {"base": "x", "batch_size": 8, "data_folder": "a b"}) == (
        "anomia run --base x --arm wanda:0.5 --data-folder 'a b' --languages english,thai --limit 24 --batch-size 8 "
        "--calibration demo"
    )
