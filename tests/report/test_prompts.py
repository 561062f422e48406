"""The prompt that the page shows is the one that was sent: in the study's own wording, built in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.items.prompts import option_list, read_templates, write_prompt
from anomia.report.figures import NamedRun
from anomia.report.page.build import explorer_values, named_runs, write_report
from anomia.report.page.explorer import CANDIDATE, CONTEXT, QUESTION, prompt_templates, templates_of
from tests.report.synthetic import write_run

Open = Callable[..., Any]
# Options within a line, a field that stands as text, and the passage behind the question.
OWN = {
    "open": "F: {question}\nT: {context} {{question}}\nA:",
    "cued": "{question} One of: {options} (from {context})\nA:",
    "no_question": "T: {context}\nA:",
}


def test_templates_are_those_of_the_study() -> None:
    made = prompt_templates(read_templates(OWN))
    assert made["open"] == f"F: {QUESTION}\nT: {CONTEXT} {{question}}\nA:"
    assert made["cued"] == f"{QUESTION} One of: {option_list([CANDIDATE])} (from {CONTEXT})\nA:"
    assert prompt_templates()["open"] == write_prompt("open", CONTEXT, QUESTION)


def test_a_run_of_another_tool_shows_no_prompt() -> None:
    assert templates_of({"provenance": {"imported": {"tool": "lm-eval"}}}) is None
    assert templates_of({"prompts": {"open": "{nothing}"}}) is None
    assert templates_of({"prompts": ["x"]}) is None
    assert templates_of({}) == read_templates({})


def test_runs_of_one_report_keep_their_own_wording(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "plain", languages=("english",), items=4, arms=("wanda:0.5",)),
        write_run(
            tmp_path / "own", languages=("english",), items=4, arms=("wanda:0.5",), study={"prompts": OWN}
        ),
    ]
    runs: list[NamedRun] = named_runs(folders)
    plain, own = explorer_values(runs)["prompts"]
    assert plain["open"].startswith("Context: ")
    assert own["open"].startswith("F: ")


@pytest.mark.parametrize("prompts", [None, OWN], ids=["plain", "own"])
def test_the_page_shows_what_was_sent(
    prompts: dict[str, str] | None, open_page: Open, tmp_path: Path
) -> None:
    run = write_run(
        tmp_path / "run", languages=("english",), items=3, arms=("wanda:0.5",), study={"prompts": prompts}
    )
    item = pl.read_parquet(run / "items.parquet").row(0, named=True)
    page = open_page(write_report([run], tmp_path / "out", formats=()).page)
    page.locator(".entry").first.click()
    panel = page.locator(".item")
    panel.get_by_text("The prompt as sent").click()
    words = read_templates(prompts or {})
    gold, options = item["answers"][0], item["options_standard"]
    context, question = item["context"], item["question"]
    expected = {
        "open; choice; hard choice; same-passage choice; rank; beams; samples": write_prompt(
            "open", context, question, templates=words
        ),
        "cued": write_prompt("cued", context, question, options, templates=words),
        "cued, no gold": write_prompt(
            "cued", context, question, [o for o in options if o != gold], templates=words
        ),
        "cued, unrelated": write_prompt("cued", context, question, item["unrelated"], templates=words),
        "choice, no question; hard choice, no question; same-passage choice, no question": write_prompt(
            "no_question", context, templates=words
        ),
    }
    for label, sent in expected.items():
        panel.get_by_label("which prompt").select_option(label=label)
        assert panel.locator("details .passage").evaluate("node => node.textContent") == sent
