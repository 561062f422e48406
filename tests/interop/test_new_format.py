"""A log format is one file and one line of the registry: with these, import reads it, its settings and its filters."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anomia.cli import main
from anomia.interop.arms import models_from
from anomia.interop.as_run import import_run
from anomia.interop.formats import MODULES, LogFormat
from anomia.interop.samples import Sample, SampleFile, file_of
from anomia.interop.settings import Settings
from anomia.measure.figures import find
from anomia.measure.frame import POOLED
from anomia.measure.results import read_results

DATE = "2026-01-31T12-00-00.123456"
OPTIONS = ("Rome", "Troy")


def read_scribe(path: Path, *, filter_name: str | None = None) -> SampleFile | None:
    """One object of ids and whether each is right."""
    held = json.loads(path.read_text(encoding="utf-8"))
    chosen = "mc" in path.name
    samples = [
        Sample(
            "choice" if chosen else "open", {"id": number}, "english", f"Q{number}?", "", None, ("Rome",),
            None if chosen else OPTIONS[not right], OPTIONS if chosen else (), (-1.0, -2.0 + 2 * (not right)) if chosen else (),
            0 if chosen else None, {"acc": float(right)},
        )
        for number, right in held.items()
    ]  # fmt: skip
    return file_of(path, samples)


def settings(path: Path, held: Mapping[str, Any], task: str) -> Settings:
    return Settings(path, {}, {"backend": held["ink"]})


@pytest.fixture(autouse=True)
def _scribe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format `scribe`, as if this file were in `interop`."""
    module: Any = ModuleType("anomia.interop.scribe_log")
    module.FORMAT = LogFormat("scrolls_*.json", read_scribe, settings, lambda log: [log.parent / "inks"])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(MODULES, "scribe", "scribe_log")


def write_model(folder: Path, *, said: int, ink: str) -> Path:
    (folder / "inks").mkdir(parents=True)
    for task, right in (("gen", said), ("mc", 19)):
        held = {str(number): number < right for number in range(20)}
        (folder / f"scrolls_{task}_{DATE}.json").write_text(json.dumps(held), encoding="utf-8")
    (folder / "inks" / f"used_{DATE}.json").write_text(json.dumps({"ink": ink}), encoding="utf-8")
    return folder


def test_its_logs_become_a_run(tmp_path: Path) -> None:
    folders = [write_model(tmp_path / name, said=said, ink=ink) for name, said, ink in (("b", 20, "black"), ("a", 8, "red"))]  # fmt: skip
    found = import_run("scribe", models_from("scribe", folders, [], []), tmp_path / "run")
    assert (found.questions, found.arms, found.languages) == (20, ("a",), ("english",))
    assert [(row.what, row.base, row.other) for row in found.differences["a"]] == [
        ("backend", "black", "red")
    ]
    results = read_results(tmp_path / "run")
    drop = find(results.diagnosis.figures, "a", "drop/open", POOLED)
    assert drop is not None
    assert drop.value == pytest.approx(12 / 20)


def test_the_command_line_knows_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "scrib", str(tmp_path)])
    assert "did you mean 'scribe'" in capsys.readouterr().err
