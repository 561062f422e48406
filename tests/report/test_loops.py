"""Answers that loop, strict grades and flags: in the list, in an item, in the terminal; told from texts in older runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.loops import is_text_loop
from anomia.records import SCHEMA, write_rows
from anomia.report.page.build import write_report
from anomia.report.server_rows import Rows, read_filter
from anomia.report.terminal import item_view, selected_items
from anomia.run_folder import RunFolder
from tests.report.synthetic import write_run
from tests.report.test_terminal import printed

Open = Callable[..., Any]
NEW = ("open_strict", "open_loop", "gold_in_question", "gold_over_limit")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third answer of the arm loops, no answer is right by the strict grade, item 0 has its answer in the question."""
    folder = write_run(
        tmp_path_factory.mktemp("loops") / "run", languages=("english",), items=12, arms=("wanda:0.5",)
    )
    file = folder / "records" / "all.parquet"
    rows = pl.read_parquet(file).to_dicts()
    for row in rows:
        row |= {
            "open_strict": False, "open_loop": row["arm"] != "base" and row["index"] % 3 == 0,
            "gold_in_question": row["index"] == 0, "gold_over_limit": False,
        }  # fmt: skip
    write_rows(rows, file, SCHEMA)
    return folder


@pytest.fixture(scope="module")
def older(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the columns, as an older version wrote it."""
    folder = write_run(
        tmp_path_factory.mktemp("older") / "run", languages=("english",), items=12, arms=("wanda:0.5",)
    )
    file = folder / "records" / "all.parquet"
    pl.read_parquet(file).drop(NEW).write_parquet(file)
    file.with_name(f"{file.name}.sha256").unlink()
    return folder


def test_the_list_is_filtered_by_loops(run: Path, open_page: Open, tmp_path: Path) -> None:
    page = open_page(write_report([run], tmp_path / "out", formats=()).page)
    page.get_by_label("only answers that loop").check()
    page.locator(".status", has_text="4 of 12 rows").wait_for()
    assert page.locator(".entry .flag").count() == 4
    page.locator(".entry").first.click()
    item = page.locator(".item")
    item.get_by_text("The question contains an accepted answer.").wait_for()
    assert item.locator(".who .flag").all_inner_texts() == ["loops"]
    assert page.heard == []


def test_loops_of_an_older_run_are_told_from_its_texts(older: Path, open_page: Open, tmp_path: Path) -> None:
    records = pl.read_parquet(older / "records" / "all.parquet").filter(pl.col("arm") != "base")
    loops = sum(map(is_text_loop, records["open_text"]))
    page = open_page(write_report([older], tmp_path / "out", formats=()).page)
    page.get_by_label("only answers that loop").check()
    page.locator(".status", has_text=f"{loops} of 12 rows").wait_for()
    assert page.heard == []


def test_the_server_filters_alike(run: Path, older: Path, tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    for folder, known, loops in ((run, True, 4), (older, False, 0)):
        (tmp_path / folder.parent.name).mkdir()
        rows = Rows(folder, tmp_path / folder.parent.name)
        assert rows.index()["loops"] is known
        assert rows.count(read_filter('{"loops": true}'))["total"] == loops
        assert rows.count(read_filter("{}"))["total"] == 12
        shown = rows.page(read_filter("{}"), 0, 12)
        assert sum(bool(row["loops"]) for row in shown) == loops
        assert {row["verdicts"]["open_strict"] for row in shown} == ({(1, 1)} if known else {(0, 0)})
        rows.close()


def test_in_the_terminal(run: Path, older: Path) -> None:
    records = RunFolder(run).records().with_columns(fate=pl.lit(None, dtype=pl.String))
    chosen = selected_items(records, arm="wanda:0.5", fate=None, language=None, loops=True)
    assert chosen["index"].to_list() == [0, 3, 6, 9]
    item = pl.read_parquet(run / "items.parquet").row(0, named=True)
    base = records.filter(arm="base", item_id=item["item_id"]).row(0, named=True)
    text = " ".join(printed(item_view(item, base, chosen.row(0, named=True))).split())
    assert re.search(r"\((right, wrong by the strict grade|wrong), loops\)", text)
    assert "the question contains an accepted answer" in text
    old = RunFolder(older).records().with_columns(fate=pl.lit(None, dtype=pl.String))
    assert selected_items(old, arm="wanda:0.5", fate=None, language=None, loops=True).is_empty()
