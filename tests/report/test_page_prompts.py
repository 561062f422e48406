"""The page of a run of prompts in a real browser: long answers alone, side by side, with the rank under each token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.report.page.build import Report, write_report
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study

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
