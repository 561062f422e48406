"""Record files of a run: damaged or foreign ones are one message, and nothing is half written."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import AnomiaError, RunError
from anomia.files import read_json, read_yaml
from anomia.report.export import export_run
from tests.conftest import entry
from tests.fuzz.conftest import call, fuzz, refused, whole_program
from tests.fuzz.mutations import SCALARS, damaged

SMALL = ["--limit", "3", "--calibration", "demo", "--probes", "open,choice,rank"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A finished run of one language and one arm."""
    folder = tmp_path_factory.mktemp("records")
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(entry(n)) + "\n" for n in range(6)))
    seen = call("run", "--base", model_folder, "--arm", "magnitude:0.5", "--data", f"jsonl:{data}", *SMALL,
                "--out", folder / "run")  # fmt: skip
    assert seen.code == 0, seen.err
    return folder / "run"


@pytest.fixture(scope="module")
def copy(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(run, target)
    return target


def put(file: Path, content: bytes, checksum: bool) -> None:
    """Writes a record file; with a checksum that agrees, as a program that means harm would."""
    file.write_bytes(content)
    summed = file.with_name(f"{file.name}.sha256")
    if checksum:
        summed.write_text(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
    else:
        summed.unlink(missing_ok=True)


def look(copy: Path, *, tables: bool) -> None:
    """Every command that reads records ends well, or with one message and without a file."""
    out = copy.parent / "rows.csv"
    if not tables and not whole_program(some_record(copy).read_bytes()):
        out.unlink(missing_ok=True)
        try:
            export_run(copy, out)
        except AnomiaError:
            assert not out.exists()
        return
    commands: list[list[Any]] = [["export", copy, out], ["items", copy, "--limit", "1"]]
    for command in [*commands, *([["show", copy]] if tables else [])]:
        out.unlink(missing_ok=True)
        seen = call(*command)
        if seen.code:
            refused(seen)
            assert seen.out == ""
        assert out.exists() == (command[0] == "export" and seen.code == 0)
        assert [file.name for file in copy.parent.iterdir() if file.name.endswith(".part")] == []


def some_record(run: Path) -> Path:
    return min((run / "records").glob("*.parquet"))


@given(data=st.data())
@fuzz()
def test_damaged_bytes(data: st.DataObject, run: Path, copy: Path) -> None:
    file = some_record(copy)
    put(file, data.draw(damaged(some_record(run).read_bytes())), checksum=data.draw(st.booleans()))
    look(copy, tables=False)


@st.composite
def wrong_frames(draw: Callable[[Any], Any], frame: pl.DataFrame) -> pl.DataFrame:
    """A frame with columns gone, renamed, of another type, with other values, or with rows doubled."""
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(frame.columns)) if frame.columns else "arm"
        deed = draw(st.sampled_from(["drop", "rename", "retype", "value", "double", "none", "null", "add"]))
        if deed == "drop" and name in frame.columns:
            frame = frame.drop(name)
        elif deed == "rename" and name in frame.columns:
            frame = frame.rename({name: f"{name}_"})
        elif deed == "double":
            frame = pl.concat([frame, frame])
        elif deed == "none":
            frame = frame.head(0)
        elif deed == "null" and name in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype=frame.schema[name]).alias(name))
        elif deed == "add":
            frame = frame.with_columns(pl.lit(1).alias("other"))
        else:
            value = draw(SCALARS)
            if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
                value = 7
            if isinstance(value, str):
                value = value.encode("utf-8", "replace").decode()
            kind = (
                draw(st.sampled_from([None, pl.String, pl.List(pl.Int64), pl.Binary]))
                if deed == "retype"
                else None
            )
            try:
                frame = frame.with_columns(
                    pl.lit(value).cast(kind).alias(name) if kind else pl.lit(value).alias(name)
                )
            except pl.exceptions.PolarsError:
                continue
    return frame


def as_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


@given(data=st.data())
@fuzz()
def test_wrong_columns(data: st.DataObject, run: Path, copy: Path) -> None:
    frame = data.draw(wrong_frames(pl.read_parquet(some_record(run))))
    put(some_record(copy), as_parquet(frame), checksum=True)
    look(copy, tables=False)


@given(data=st.data())
@fuzz(0.05)
def test_wrong_columns_and_all_tables(data: st.DataObject, run: Path, copy: Path) -> None:
    frame = data.draw(wrong_frames(pl.read_parquet(some_record(run))))
    put(some_record(copy), as_parquet(frame), checksum=True)
    look(copy, tables=True)


@given(data=st.data())
@fuzz()
def test_notes_of_a_run_with_any_bytes(data: st.DataObject, run: Path, place: Path) -> None:
    """The small YAML and JSON files are read or refused; what reads further is tested with the tables."""
    name = data.draw(st.sampled_from(["study.yaml", "arms.json", "noise.json"]))
    file = place / name
    file.write_bytes(data.draw(damaged((run / name).read_bytes())))
    try:
        read_yaml(file) if name.endswith(".yaml") else read_json(file)
    except RunError as error:
        assert str(file) in str(error)  # noqa: PT017
