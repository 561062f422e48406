"""A report is written over its own files, never over those of the user."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anomia.errors import RunError
from anomia.report.page.build import write_report
from tests.report.synthetic import write_run


@pytest.mark.parametrize("name", ["index.html", "figures", "tables"])
def test_a_report_overwrites_no_file_of_the_user(name: str, tmp_path: Path) -> None:
    run, out = (
        write_run(tmp_path / "run", languages=("english",), items=8, arms=("wanda:0.5",)),
        tmp_path / "out",
    )
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    write_report([run], out, formats=())
    write_report([run], out, formats=())
    (out / "index.html").unlink()
    for kept in ("figures", "tables"):
        shutil.rmtree(out / kept, ignore_errors=True)
    (out / name).write_text("mine")
    with pytest.raises(RunError, match=rf"report: .*{name} exists and was not written by anomia"):
        write_report([run], out, formats=())
    assert {file.name: file.read_text() for file in out.iterdir()} == {name: "mine", "notes.txt": "mine"}
