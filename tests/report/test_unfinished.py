"""A run that is not finished, and sets of other numbers of options, on the page and in the table files."""

from __future__ import annotations

import polars as pl
import pytest

from anomia.measure.results import Results, read_results
from anomia.report.figures.cases import NamedRun
from anomia.report.page.document import document
from anomia.report.render.files import tables
from tests.measure.planted import study_records
from tests.measure.test_results import ARMS, write_run

HALF = 30


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    records = study_records(ARMS, languages=("english", "swahili"), items=60)
    # What wanda:0.5 has answered are items that base gets wrong.
    part = records.sort("open_correct", maintain_order=True).filter(arm="base", language="english").head(HALF)
    keep = (pl.col("arm") != "wanda:0.5") | pl.col("item_id").is_in(part["item_id"].to_list())
    return read_results(write_run(tmp_path_factory.mktemp("run") / "r", records.filter(keep)))


def own_shares(results: Results, arm: str, column: str) -> list[float]:
    """Base's share and the arm's, over the arm's items."""
    mine = results.records.filter(arm=arm)
    base = results.records.filter(pl.col("item_id").is_in(mine["item_id"].to_list()), arm="base")
    return [base[column].mean(), mine[column].mean()]


def test_base_is_compared_over_the_items_that_the_arm_has_answered(results: Results) -> None:
    page = document([NamedRun("r", results)], [{}])["runs"][0]
    for arm in page["arms"]:
        for probe, _, *shown in arm["accuracies"]:
            shares = [share["value"] for share in shown]
            assert shares == pytest.approx(own_shares(results, arm["name"], f"{probe}_correct"))
    assert own_shares(results, "wanda:0.5", "open_correct")[0] < 0.3


def test_the_table_files_compare_over_the_same_items(results: Results) -> None:
    run = NamedRun("r", results)
    found = {table.name: table for table in tables([run])}
    table = found["runs"]
    names = [column.name for column in table.columns]
    row = next(row for row in table.rows if "wanda:0.5" in row)
    cells = dict(zip(names, row, strict=True))
    assert [cells["open_base"].value, cells["open_arm"].value] == pytest.approx(
        own_shares(results, "wanda:0.5", "open_correct")
    )
    table = found["one_shot"]
    names = [column.name for column in table.columns]
    row = next(row for row in table.rows if "wanda:0.5" in row and "pooled" in row)
    cells = dict(zip(names, row, strict=True))
    assert cells["zero_shot_base"].value == pytest.approx(
        own_shares(results, "wanda:0.5", "zero_shot_correct")[0]
    )


def test_the_page_says_that_the_run_is_unfinished(results: Results) -> None:
    page = document([NamedRun("r", results)], [{}])["runs"][0]
    said = "30 of 120 items are answered so far; base's figures cover the same items"
    assert page["unfinished"] == [["wanda:0.5", said]]
    begun = results._replace(records=results.records.filter(pl.col("arm") != "wanda:0.5"))
    assert document([NamedRun("r", begun)], [{}])["runs"][0]["unfinished"] == [
        ["wanda:0.5", "no items are answered yet"]
    ]
    stopped = results._replace(stopping={"width": 0.2, "arms": {"wanda:0.5": []}})
    assert document([NamedRun("r", stopped)], [{}])["runs"][0]["unfinished"] == []


@pytest.mark.parametrize(("kept", "words"), [(4, "four options"), (2, "two options"), (0, "the options")])
def test_the_number_of_options_is_the_sets_own(results: Results, kept: int, words: str) -> None:
    cut = pl.col("choice_scores").list.head(pl.col("index") % 3 + 2 if kept == 0 else kept)
    fewer = results._replace(records=results.records.with_columns(cut))
    page = document([NamedRun("r", fewer)], [{}])["runs"][0]
    labels = {label for arm in page["arms"] for _, label, *_ in arm["accuracies"][:2]}
    assert labels == {"Answers when asked", f"Picks it out of {words}"}
