"""Every table of a run in every format: the same numbers, and text of others stays text."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from anomia.measure.figures import FrontierRow
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.report.render.csv import csv_text
from anomia.report.render.files import tables
from anomia.report.render.latex import escape as escape_latex
from anomia.report.render.latex import latex
from anomia.report.render.markdown import escape as escape_markdown
from anomia.report.render.markdown import markdown
from anomia.report.render.page import plain
from anomia.report.render.stars import settled
from anomia.report.render.terminal import view
from anomia.report.render.words import cells
from anomia.report.tables.arm_results import arm_results
from anomia.report.tables.registry import ARMS, FILES, RUNS
from anomia.report.tables.runs import frontier, frontier_file
from anomia.report.tables.table import Column, Table, on_screen
from tests.report.fixed import fixed_run
from tests.report.test_terminal import printed

HOSTILE = "[red]<b>&|_"
NUMBER = re.compile(r"[−\d][\d,.]*")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return fixed_run(tmp_path_factory.mktemp("every") / "run").results


@pytest.fixture(scope="module")
def every(results: Results) -> dict[str, Table]:
    first = arm_results(results, results.arms[0])
    found = {f"arm: {table.make.__name__}": table.make(first) for table in ARMS}
    found |= {f"run: {table.make.__name__}": table.make(results) for table in RUNS}
    return found | {f"file: {make.__name__}": make(results) for make in FILES}


def test_most_tables_have_rows_here(every: dict[str, Table]) -> None:
    bare = {name for name, table in every.items() if not table.rows}
    of_tasks = {"arm: scores", "file: scores"}
    of_long_answers = {f"{of}: {name}" for of in ("arm", "file") for name in ("long_answers", "by_position")}
    assert bare <= {"run: packaging", "run: besides_weights", "run: repaired"} | of_tasks | of_long_answers


def test_terminal_and_page_show_the_same_cells(every: dict[str, Table]) -> None:
    for name, table in every.items():
        shown = printed(view(table), width=2_000)
        for found in plain(table):
            lines = [" ".join(line.split()) for line in shown.splitlines()]
            for row in found["rows"]:
                assert " ".join(" ".join(row).split()) in lines, name


def test_files_show_the_same_cells_and_csv_has_their_numbers(every: dict[str, Table]) -> None:
    for name, table in every.items():
        read = cells(settled(table), precise=True)
        in_markdown = markdown(table).splitlines()[-len(read) :] if read else []
        in_latex = [line for line in latex(table).splitlines() if line.endswith(r" \\")][1:]
        for row, one, other in zip(read, in_markdown, in_latex, strict=True):
            assert [NUMBER.findall(cell) for cell in row] == [
                NUMBER.findall(cell) for cell in one.strip("| ").replace(r"\|", "").split(" | ")
            ] or any("|" in cell for cell in row), name
            assert other.strip() == " & ".join(map(escape_latex, row)) + r" \\", name
        lines = list(csv.reader(io.StringIO(csv_text(table))))
        assert len(lines) == len(table.rows) + 1, name
        assert len(set(lines[0])) == len(lines[0]), name


def test_columns_have_names_of_their_own_and_rows_fill_them(every: dict[str, Table]) -> None:
    for name, table in every.items():
        assert len({column.name for column in table.columns}) == len(table.columns), name
        assert all(len(row) == len(table.columns) for row in table.rows), name
        assert all(0 <= place < len(table.rows) for place in table.rules), name


def test_a_table_of_a_run_can_be_a_file(results: Results, tmp_path: Path) -> None:
    """What is read needs no second definition to be exported: every table renders as every file."""
    for table in RUNS:
        made = table.make(results)
        assert csv_text(made).count("\n") >= 1
        assert markdown(made).startswith("# ")
        assert r"\end{tabular}" in latex(made)


def test_the_frontier_marks_on_screen_what_its_file_names(results: Results) -> None:
    points = [
        FrontierRow("base", 0.5, 90, *[Estimate(0.9, 0.8, 1.0, 50, 50)] * 2, True, False, True, False),
        FrontierRow(
            "null:float32", None, 90, *[Estimate(0.9, 0.8, 1.0, 50, 50)] * 2, None, None, False, False
        ),
    ]
    of_run = results._replace(frontier=points)
    shown, file = (cells(on_screen(settled(frontier(of_run)))), csv_text(frontier_file(of_run)))
    assert [row[0] for row in shown] == ["base"]
    assert shown[0][3].endswith("◆●")
    read = list(csv.DictReader(io.StringIO(file)))
    assert [(row["arm"], row["size_bytes"], row["open"], row["frontier"]) for row in read] == [
        ("base", "90", "0.9", "open by sparsity, open by size"),
        ("null:float32", "90", "0.9", "none"),
    ]


def test_text_of_others_stays_text() -> None:
    columns = (Column("arm", HOSTILE, "text"), Column("why", "why", "words"), Column("n", "n", "count"))
    table = Table("t", f"T {HOSTILE}", columns, [(HOSTILE, HOSTILE, 1)], [f"N {HOSTILE}."])
    assert printed(view(table)).count(HOSTILE) == 5
    (page,) = plain(table)
    assert page == {
        "title": f"T {HOSTILE}", "columns": [HOSTILE, "why", "n"], "rows": [[HOSTILE, HOSTILE, "1"]], "rules": [],
        "notes": [f"N {HOSTILE}."],
    }  # fmt: skip
    assert next(csv.reader(io.StringIO(csv_text(table).splitlines()[1]))) == [HOSTILE, HOSTILE, "1"]
    safe = r"\[red\]&lt;b&gt;&amp;\|\_"
    assert escape_markdown(HOSTILE) == safe
    assert markdown(table).count(safe) == 5
    assert "<b>" not in markdown(table)
    assert latex(table).count(r"[red]\textless{}b\textgreater{}\&\textbar{}\_") == 5


@pytest.mark.parametrize("text", ["\x1b[2J", "a\x07b", "a\u202eb"])
def test_a_terminal_is_not_given_control_characters(text: str) -> None:
    table = Table("t", text, (Column("arm", text, "text"),), [(text,)], [text])
    assert not set(printed(view(table))) & {"\x1b", "\x07", "\u202e"}


def test_every_file_has_a_name_of_its_own(results: Results, tmp_path: Path) -> None:
    found = [table.name for table in tables([fixed_run(tmp_path / "run")])]
    assert len(set(found)) == len(found)
