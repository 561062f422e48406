"""What a run tells: lines, the log as JSON lines, and trackers through their own packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from anomia.errors import RunError, StudyError
from anomia.running.log import JsonLog, Tracker
from anomia.running.progress import Ahead, FinishedShard, PlainProgress, Progress, RichProgress, Several

SHARD = FinishedShard("", "wanda:0.5", "swahili", 0, 32, 1.5)


def work(progress: Progress) -> None:
    progress.begin(Ahead(items=64, shards=2, cells=3))
    progress.stage("base: swahili 1–32", 32)
    for _ in range(32):
        progress.advance(items=1)
    progress.finish(SHARD)
    progress.say("a word")


def test_the_log_has_a_json_object_a_line(tmp_path: Path) -> None:
    work(JsonLog(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "stage", "shard", "say"]
    assert all({"time", "process"} <= line.keys() for line in lines)
    shard = lines[2]
    assert (shard["arm"], shard["first"], shard["last"], shard["seconds"]) == ("wanda:0.5", 0, 32, 1.5)
    assert shard["items_per_second"] > 0
    assert shard["host_bytes"] > 1e6
    work(JsonLog(tmp_path))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 8


def test_lines_tell_cells_shards_rate_memory_and_time_left() -> None:
    lines: list[str] = []
    progress = PlainProgress(lines.append, every=0)
    work(progress)
    assert "base: swahili 1–32" in lines
    assert "a word" in lines
    for word in ("3 cells", "shard 0/2", "items/s", "GB", "31/64", "min left"):
        assert any(word in line for line in lines), word


def test_bars_tell_the_same() -> None:
    console = Console(width=160, force_terminal=True, record=True)
    with RichProgress(console) as progress:
        work(progress)
        console.print(progress._bars)
    shown = console.export_text()
    for word in ("3 cells", "shard 1/2", "items/s", "GB", "32/64"):
        assert word in shown, word


def test_a_long_answer_is_told_in_tokens(tmp_path: Path) -> None:
    lines: list[str] = []
    console = Console(width=160, force_terminal=True, record=True)
    with RichProgress(console) as bars:
        for progress in (PlainProgress(lines.append, every=0), PlainProgress(lines.append), bars):
            told = Several([progress, JsonLog(tmp_path)])
            told.begin(Ahead(items=64, shards=2, cells=1))
            told.stage("base: swahili 1–32", 32)
            for _ in range(512):
                told.tokens(3)
        console.print(bars._bars)
    assert "base: swahili 1–32, 3 tokens" in lines[1]
    assert "base: swahili 1–32, 1,536 tokens" in lines[512]
    assert "tokens/s: 0/32; whole run" in lines[512]
    # Without a terminal a line is written every 30 seconds.
    assert lines[513:] == ["base: swahili 1–32"]
    assert "tokens/s" in console.export_text()
    assert "tokens" not in (tmp_path / "log.jsonl").read_text()


def test_several_are_told_the_same(tmp_path: Path) -> None:
    lines: list[str] = []
    work(Several([PlainProgress(lines.append), JsonLog(tmp_path)]))
    assert "a word" in lines
    assert "a word" in (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_trackers_get_their_own_calls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    def call(what: str) -> Any:
        return lambda *values, **more: calls.append((what, values or more))

    names = ("init", "log", "finish", "set_experiment", "start_run", "log_params", "log_metrics", "end_run")
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**{what: call(what) for what in names}))
    tracker = Tracker(name, "run", {"base": "x"})
    work(tracker)
    tracker.close({})
    made = [what for what, _ in calls]
    if name == "mlflow":
        assert made == ["set_experiment", "start_run", "log_params", "log_metrics", "log_metrics", "end_run"]
        sent = calls[3][1][0]
    else:
        assert made == ["init", "log", "log", "finish"]
        assert calls[0][1]["config"] == {"base": "x"}
        sent = calls[1][1][0]
    assert (sent["items"], sent["shards"]) == (32, 1)


def test_a_tracker_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(RunError, match=r"--track trackio needs the package trackio: pip install trackio"):
        Tracker("trackio", "run", {})
    with pytest.raises(StudyError, match="did you mean 'wandb'"):
        Tracker("wandbb", "run", {})


def test_the_time_left_is_told_by_the_pace_after_the_model_was_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("anomia.running.progress.time.monotonic", lambda: now)
    lines: list[str] = []
    progress = PlainProgress(lines.append, every=0.0)
    progress.begin(Ahead(items=64, shards=2, cells=1))
    progress.stage("base", 64)
    now = 90.0
    for _ in range(9):
        progress.advance(items=1)
        now += 6.0
    assert not [line for line in lines[1:5] if "left" in line]
    assert lines[-1].endswith("9/64, about 6 min left"), lines
