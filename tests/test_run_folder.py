"""Names in a run: each has one home, and both kinds of paths reach it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import anomia
from anomia import run_folder
from anomia.errors import RunError
from anomia.files import place
from anomia.run_folder import JsonFile, JsonFiles, ReportFolder, RunFolder, locked, runs_of
from anomia.running.folder import OpenedRun, set_damaged_aside
from anomia.study import Study

SOURCE = Path(anomia.__file__).parent
NAMES = {
    value.relative_to("run").parts[0]
    for folder in (RunFolder, ReportFolder)
    for name, member in inspect.getmembers(folder, lambda member: isinstance(member, property))
    if isinstance(found := member.fget(folder(Path("run"))), Path | JsonFile | JsonFiles)  # type: ignore[misc]
    for value in [found if isinstance(found, Path) else found.path]
} | {"cells"}
# Where one of these words is the name of something that is not in a run.
ELSEWHERE = {
    ("report/share.py", "records/*.parquet"): "a part of a data set on the hub",
}


def _spelled(tree: ast.AST) -> Iterator[str]:
    """Texts that are joined to a path, or that look like the name of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.right] if isinstance(node.right, ast.Constant) else []
            parts += node.right.values[:1] if isinstance(node.right, ast.JoinedStr) else []  # type: ignore[arg-type]
            yield from (part.value for part in parts if isinstance(part.value, str))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.value


def test_the_names_of_a_run_are_spelled_in_one_module() -> None:
    assert {"study.yaml", "items.parquet", "records", "results.json", "noise.json", "compression"} <= NAMES
    assert {"index.html", "figures", "tables"} <= NAMES
    found = [
        (str(file.relative_to(SOURCE)), text)
        for file in sorted(SOURCE.rglob("*.py"))
        if file != Path(run_folder.__file__) and not {"compress", "models"} & set(file.parts)
        for text in _spelled(ast.parse(file.read_text(encoding="utf-8")))
        if text.split("/")[0] in NAMES
    ]
    assert [entry for entry in found if entry not in ELSEWHERE] == []


def test_a_run_is_read_where_it_was_written(tmp_path: Path) -> None:
    for path in (tmp_path / "disk", place(f"memory://{tmp_path.name}/run")):
        run = RunFolder(path)
        assert not run.is_run
        assert not run.holds_something_else()
        assert run.noise.read() is None
        assert list(run.compression.all()) == []
        run.noise.write({"items": 3})
        run.compression.of("b").write({"arm": "two"})
        run.compression.of("a").write({"arm": "one"})
        run.notes.of_arm("wanda:0.5").write({"arm": "wanda:0.5"})
        assert run.noise.read() == {"items": 3}
        assert [found["arm"] for found in run.compression.all()] == ["one", "two"]
        assert run.notes.of_arm("wanda:0.5").read() == {"arm": "wanda:0.5"}
        assert run.holds_something_else()
        with pytest.raises(RunError, match="has no records"):
            run.records()
        with pytest.raises(RunError, match=r"has no items\.parquet"):
            run.items()


def test_cells_that_have_begun_are_runs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert runs_of(tmp_path) == [tmp_path]
    folder.matrix_file.write_text("cells: [one, two]")
    with pytest.raises(RunError, match="no cell of"):
        runs_of(tmp_path)
    two = folder.cell("two")
    two.path.mkdir(parents=True)
    two.study_file.write_text("base: x\nprovenance: {dtype: float32}")
    assert runs_of(tmp_path) == [two.path]
    assert two.provenance() == {"dtype": "float32"}
    two.records_folder.mkdir()
    assert RunFolder(two.records_folder).around() == two


def test_items_without_a_checksum_are_the_users(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.items_file.write_bytes(b"mine")
    assert folder.holds_something_else()
    # A run that was stopped before its study was written has both.
    folder.items_file.with_name("items.parquet.sha256").write_text("x")
    assert not folder.holds_something_else()


def test_a_lock_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "mine.txt").write_text("mine")
    assert (tmp_path / "a" / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "a" / "b").exists()


def test_only_partial_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in (".study.yaml.123.part", ".mine.part", "mine.part"):
        (tmp_path / name).write_text("x")
    set_damaged_aside(OpenedRun(folder, Study(base="x", arms=("magnitude:0.5",)), {}), [])
    assert sorted(file.name for file in tmp_path.iterdir()) == [".mine.part", "mine.part"]
