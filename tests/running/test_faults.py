"""Nothing is lost: killed anywhere, a damaged file, a full disk, two processes on one folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.errors import RunError
from anomia.run_folder import RunFolder, locked
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry
from tests.running.workers import start, start_command

KILLS = 20


@pytest.fixture(scope="module")
def study(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    data = tmp_path_factory.mktemp("data") / "questions.jsonl"
    entries = [entry(n, language) for language in ("english", "swahili") for n in range(7)]
    data.write_text("".join(json.dumps(line) + "\n" for line in entries))
    return Study(
        base=str(model_folder),
        arms=("magnitude:0.5",),
        data=f"jsonl:{data}",
        limit=6,
        probes=("open", "choice", "rank", "samples"),
        num_samples=2,
        max_new_tokens=3,
        noise_items=2,
        batch_size=2,
        engine="reference",
    )


@pytest.fixture(scope="module")
def whole(study: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, float]:
    """The records of an undisturbed run, and how long it takes once the server of processes is warm."""
    for name in ("first", "second"):
        out = tmp_path_factory.mktemp("whole") / name
        began = time.monotonic()
        process = start(study, out)
        process.join()
        assert process.exitcode == 0
    return RunFolder(out).records(), time.monotonic() - began


def test_killed_at_any_moment_the_records_are_those_of_an_undisturbed_run(
    study: Study, whole: tuple[pl.DataFrame, float], tmp_path: Path
) -> None:
    records, seconds = whole
    moments = random.Random(7)
    kills = finished = number = 0
    while kills < KILLS:
        out = tmp_path / f"run{number}"
        process = start(study, out)
        process.join(moments.uniform(0, seconds))
        done_before = set(_record_files(out))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if process.exitcode == 0:
            assert RunFolder(out).records().equals(records)
            number, finished = number + 1, finished + 1
        else:
            assert process.exitcode == -signal.SIGKILL
            # What was finished stays finished, and every file that is there is whole.
            assert done_before <= set(_record_files(out))
            if _record_files(out):
                RunFolder(out).records()
    last = start(study, tmp_path / f"run{number}")
    last.join()
    assert last.exitcode == 0
    assert RunFolder(tmp_path / f"run{number}").records().equals(records)
    assert not list(tmp_path.rglob("*.damaged"))


@pytest.mark.parametrize("after", [False, True])
def test_killed_between_write_and_rename(
    study: Study, whole: tuple[pl.DataFrame, float], tmp_path: Path, after: bool
) -> None:
    records, _ = whole
    out = tmp_path / "run"
    kills = 0
    while True:
        # In turn at a checksum and at records; the first processes come no further than the study.
        process = start(study, out, kill_at_rename=3 + kills % 2, after=after)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        assert kills < 40
    assert kills > 3
    assert RunFolder(out).records().equals(records)
    assert not list(out.rglob("*.part"))
    assert not list(out.rglob("*.damaged"))
    assert not RunFolder(out).lock_file.exists()


def test_a_damaged_and_a_foreign_file_are_set_aside_and_only_their_shards_done_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomia.running.folder.SHARD_ITEMS", 2)
    out = tmp_path / "run"
    run_study(study, out, progress=PlainProgress(lambda text: None))
    records = RunFolder(out).records()
    files = _record_files(out)
    flipped, swapped, nameless, *rest = files
    content = bytearray(flipped.read_bytes())
    content[100] ^= 4
    flipped.write_bytes(bytes(content))
    shutil.copy(rest[0], swapped)
    nameless.with_name(f"{nameless.name}.sha256").unlink()
    shutil.copy(rest[0], out / "records" / "guest.parquet")
    stamps = {file: file.stat().st_mtime_ns for file in rest}
    with pytest.raises(RunError, match="is damaged"):
        RunFolder(out).records()
    said: list[str] = []
    run_study(study, out, progress=PlainProgress(said.append))
    assert RunFolder(out).records().equals(records)
    assert stamps == {file: file.stat().st_mtime_ns for file in rest}
    aside = {file.name for file in out.rglob("*.damaged")}
    assert aside == {
        f"{name}.damaged" for name in (flipped.name, swapped.name, nameless.name, "guest.parquet")
    }
    for file in (flipped, swapped, nameless):
        assert any(file.name in line and "was renamed" in line for line in said)


def test_the_second_of_two_processes_is_told(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = start(study, out)
    while not RunFolder(out).lock_file.exists():
        time.sleep(0.01)
    second = start(study, out)
    os.kill(holder.pid, signal.SIGSTOP)
    second.join()
    os.kill(holder.pid, signal.SIGCONT)
    assert second.exitcode == 2
    (told,) = tmp_path.glob("*.error")
    assert f"another anomia (process {holder.pid}) is working in {out}" in told.read_text()
    holder.join()
    assert holder.exitcode == 0


def test_the_lock_of_a_killed_process_is_stale(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = start(study, out)
    while not RunFolder(out).lock_file.exists():
        time.sleep(0.01)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locked(out):
        assert RunFolder(out).lock_file.read_text() == str(os.getpid())


def test_a_lock_leaves_nothing_in_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"), locked(tmp_path / "new"):
        pass
    assert list((tmp_path / "mine").iterdir()) == []
    assert not (tmp_path / "new").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of so many kilobytes; mounting again changes its size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = False

    def mount(kilobytes: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={kilobytes}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
        mounted = True
        return disk

    yield mount
    if mounted:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount command")
def test_a_full_disk_keeps_what_was_measured(
    study: Study, whole: tuple[pl.DataFrame, float], small_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    records, _ = whole
    disk = small_disk(180)
    process = start(study, disk / "run", errors=tmp_path)
    process.join()
    assert process.exitcode == 2
    (told,) = tmp_path.glob("*.error")
    assert "the disk is full" in told.read_text()
    begun = _record_files(disk / "run")
    assert 0 < len(begun) < 12
    kept: dict[str, Any] = {file.name: file.read_bytes() for file in begun}
    assert RunFolder(disk / "run").records().height > 0
    small_disk(4000)
    process = start(study, disk / "run")
    process.join()
    assert process.exitcode == 0
    assert RunFolder(disk / "run").records().equals(records)
    assert {name: (disk / "run" / "records" / name).read_bytes() for name in kept} == kept


def _record_files(out: Path) -> list[Path]:
    return sorted((out / "records").glob("*.parquet"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_closed_terminal_end_a_run_within_seconds(
    study: Study, whole: tuple[pl.DataFrame, float], tmp_path: Path, number: signal.Signals
) -> None:
    records, _ = whole
    out = tmp_path / "run"
    process = start_command(study, out, tmp_path / "said.txt")
    while not _record_files(out):
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid, number)
    began = time.monotonic()
    process.join(20)
    assert process.exitcode == 130
    assert time.monotonic() - began < 5
    assert "run the same command again to resume" in (tmp_path / "said.txt").read_text()
    assert not list(out.rglob("*.part"))
    again = start(study, out)
    again.join()
    assert RunFolder(out).records().equals(records)
