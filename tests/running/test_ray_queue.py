"""What a worker on Ray is given next."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anomia.cli import app
from anomia.compress.spec import parse_arm
from anomia.errors import StudyError
from anomia.run_folder import RunFolder
from anomia.running.cells import CellRun, Turn
from anomia.running.folder import OpenedRun, Shard
from anomia.running.on_ray import Size, _Crew, _Queue, read_size
from anomia.study import Study


def queue(study: Study) -> _Queue:
    cell = CellRun("", study, Path("x"), [], OpenedRun(RunFolder(Path("x")), study, {}))
    turn = Turn(parse_arm("wanda:0.5"), ("english", "swahili"), (cell,))
    shards = [
        Shard("wanda:0.5", "d", name, first, first + 32)
        for first in (0, 32)
        for name in ("english", "swahili")
    ]
    return _Queue(turn, deque((0, shard) for shard in shards), _Crew(turn.arm.name, Size(), turn.cells, turn))


def places(taken: list[Any]) -> list[Any]:
    return [None if entry is None else (entry[1].language, entry[1].first) for entry in taken]


def test_without_stopping_all_shards_may_be_out_at_once() -> None:
    waiting = queue(Study(base="x", arms=("wanda:0.5",)))
    assert places([waiting.take() for _ in range(5)]) == [
        ("english", 0), ("swahili", 0), ("english", 32), ("swahili", 32), None,
    ]  # fmt: skip


def test_with_optional_stopping_a_round_is_finished_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = queue(Study(base="x", arms=("wanda:0.5",), until_width=0.2))
    narrow = False
    monkeypatch.setattr(Turn, "narrow_enough", lambda *_: narrow)
    first, second = waiting.take(), waiting.take()
    assert places([first, second]) == [("english", 0), ("swahili", 0)]
    assert first is not None
    assert second is not None
    waiting.at_work = {"one": ("worker", *first), "two": ("worker", *second)}
    assert waiting.take() is None
    del waiting.at_work["one"]
    assert waiting.take() is None
    waiting.at_work.clear()
    assert places([waiting.take()]) == [("english", 32)]
    narrow = True
    assert waiting.take() is None
    assert not waiting.left


def test_sizes_of_workers() -> None:
    assert read_size("cpus=4,gpus=0.5") == Size(4, 0.5)
    assert read_size("gpus=2") == Size(1, 2)
    for text, says in (
        ("gpu=1", "did you mean 'gpus'"),
        ("cpus=many", "must be a number"),
        ("cpus=-1", "number"),
    ):
        with pytest.raises(StudyError, match=says):
            read_size(text)


@pytest.mark.parametrize("after", [[], ["auto"], ["ray://10.0.0.1:10001"], ["--out", "x"]])
def test_ray_needs_no_address(after: list[str]) -> None:
    done = CliRunner().invoke(app, ["run", "nothing.yaml", "--ray", *after])
    assert "nothing.yaml does not exist" in str(done.exception)
