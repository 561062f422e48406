"""The page of a run of prompts in a real browser: long answers alone, side by side, with the rank under each token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.report.page.build import Report, write_report
from anomia.report.terminal import item_view
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.report.test_terminal import printed

Open = Callable[..., Any]
ARM = "magnitude:0.6"


@pytest.fixture(scope="module")
def run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    file = folder / "own.jsonl"
    rows = [
        {"prompt": f"Tell me <b>more</b> about {n}.", "language": "sw" if n % 2 else "en"} for n in range(10)
    ]
    rows[2]["reference"] = "two"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = Study(
        base=str(model_folder), arms=(ARM,), data=f"prompts:{file}", continuation_tokens=24, dtype="float32"
    )
    run_study(study, folder / "run", progress=PlainProgress(lambda text: None))
    return folder / "run"


@pytest.fixture(scope="module")
def report(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report([run], tmp_path_factory.mktemp("page"), formats=())


def test_only_what_was_asked_is_shown(report: Report, open_page: Open) -> None:
    page = open_page(report.page, figures=True)
    assert page.heard == []
    assert page.locator(".verdict").count() == 1
    assert page.locator(".verdict .outcome").inner_text() == "unjudged"
    assert "Only long answers were asked" in page.locator(".verdict").inner_text()
    text = page.locator("body").inner_text()
    assert "Long answers that never end" in text
    for word in ("gold", "Multiple choice", "multiple-choice options", "net dissociation"):
        assert word not in text, word
    assert page.locator(".entry").count() == 10


def test_an_item_has_both_answers_and_ranks(run: Path, report: Report, open_page: Open) -> None:
    records = RunFolder(run).records()
    page = open_page(report.page)
    differing = marked = 0
    for number in range(10):
        page.locator(".entry").nth(number).click()
        panel = page.locator(".item")
        panel.get_by_role("heading", name="Long answer").wait_for()
        shown = panel.inner_text()
        prompt = next(
            text for text in records["question"].unique() if text in shown and text.startswith("Tell me <b>")
        )
        mine = {row["arm"]: row for row in records.filter(pl.col("question") == prompt).iter_rows(named=True)}
        boxes = panel.locator(".output.long")
        assert boxes.count() == 2
        assert boxes.nth(0).locator("> span").count() == len(mine["base"]["continuation_ids"])
        assert boxes.nth(1).locator("> span").count() == len(mine[ARM]["continuation_ids"])
        ranks = mine[ARM]["continuation_ranks"]
        assert boxes.nth(0).locator(".rank.demoted").count() == sum(1 < rank <= 10 for rank in ranks)
        assert boxes.nth(0).locator(".rank.lost").count() == sum(rank > 10 for rank in ranks)
        # Each is written under its token, where a reader and a screen reader find it.
        under = boxes.nth(0).locator("rt")
        assert [text.split() for text in under.all_text_contents()] == [
            ["rank", f"{rank:,}"] for rank in ranks if rank > 1
        ]
        for rank in range(under.count()):
            token, number = (boxes.nth(0).locator(each).nth(rank).bounding_box() for each in (".rank", "rt"))
            assert token is not None
            assert number is not None
            assert number["y"] >= token["y"]
            assert number["width"] > 2
        marked += sum(rank > 1 for rank in ranks)
        place = mine[ARM]["continuation_divergence"]
        if place is None:
            assert "The same as base's, token for token." in shown
        else:
            differing += 1
            assert f"It leaves base's answer at token {place}." in shown
    assert differing
    assert marked
    assert page.heard == []


def test_print_shows_whole_answers_and_ranks(report: Report, open_page: Open) -> None:
    page = open_page(report.page)
    page.locator(".entry").nth(0).click()
    page.locator(".item").get_by_role("heading", name="Long answer").wait_for()
    page.emulate_media(media="print")
    box = page.locator(".output.long").nth(0)
    assert box.evaluate("node => getComputedStyle(node).maxHeight") == "none"
    assert box.locator("rt").count() > 0
    assert box.locator("rt").nth(0).is_visible()


def test_the_terminal_lists_the_tokens_that_are_not_ranked_first(run: Path) -> None:
    records = RunFolder(run).records().with_columns(fate=pl.lit(None, dtype=pl.String))
    items = {row["item_id"]: row for row in RunFolder(run).items().iter_rows(named=True)}
    base, arm = (records.filter(arm=name).sort("item_id").row(0, named=True) for name in ("base", ARM))
    pieces = base["continuation_pieces"]
    ranks = [1, 3, *[1] * (len(pieces) - 2)]

    def shown(ranks: list[int]) -> str:
        view = item_view(items[base["item_id"]], base, arm | {"continuation_ranks": ranks})
        return " ".join(printed(view).replace("│", " ").split())

    said = shown(ranks)
    assert f"1 of {len(pieces)} tokens not ranked first (position, token, rank): 1 {pieces[1]!r} at 3" in said
    assert "more" not in said.split("at 3")[1].split("of base")[0]
    assert f", and {len(pieces) - 12} more" in shown([20] * len(pieces))
    assert f"all {len(pieces)} tokens ranked first" in shown([1] * len(pieces))
