"""Passages, questions, outputs and names that want to run or to break the page: they are text and stay text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from anomia.records import ITEM_SCHEMA, SCHEMA, write_rows
from anomia.report.page.build import Report, write_report
from anomia.report.page.package import compressed, json_text, page
from tests.report.synthetic import write_run

Open = Callable[..., Any]
ATTACK = (
    "<script>globalThis.hit=1</script></script></style><!--<script>\x00"
    '<img src=x onerror="globalThis.hit=1"><a href="javascript:globalThis.hit=1">x</a>'
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>"
    "\u202eturned\u2066 [bold]x[/red] {{hit}} ${hit} $& $1 \\u003c ' \" ` & &lt; \x07\x1b[2J"
)
LONG = ATTACK + "A" * 100_000
KEPT = {"arm", "dataset", "item_id", "passage_id"}


def attacked(frame: pl.DataFrame, schema: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """Rows with `text` in every field that holds text; ids stay different from each other."""
    rows = frame.to_dicts()
    for row in rows:
        for name, kind in schema.items():
            if name in KEPT or row[name] is None:
                continue
            if kind == pl.String:
                row[name] = text
            elif kind == pl.List(pl.String):
                # Options must differ from each other; gold is the first of the answers and stands among them.
                row[name] = [text if n == 0 else f"{text} {n}" for n in range(len(row[name]))]
        row["language"] = text + row["item_id"][:2]
        row["item_id"] = text[:300] + row["item_id"]
        if "arm" in row and row["arm"] != "base":
            row["arm"] = text
    return rows


@pytest.fixture(scope="module", params=[ATTACK, LONG], ids=["markup", "100 KB of it"])
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("hostile")
    run = write_run(folder / "run", languages=("arabic", "english"), items=8, arms=("wanda:0.5",))
    text = request.param
    records, items = pl.read_parquet(run / "records" / "all.parquet"), pl.read_parquet(run / "items.parquet")
    write_rows(attacked(records, SCHEMA, text), run / "records" / "all.parquet")
    write_rows(attacked(items, ITEM_SCHEMA, text), run / "items.parquet", ITEM_SCHEMA)
    study = {"base": text, "arms": [text], "data": text, "calibration": text,
             "provenance": {"vocabulary": 260_000, "machine": text, "dtype": text, "base_weights": text}}  # fmt: skip
    (run / "study.yaml").write_text(yaml.safe_dump(study))
    (run / "arms.json").write_text(json.dumps({text: {"failed": None}, f"{text}2": {"failed": text}}))
    return write_report([run], folder / "out", formats=())


def test_nothing_runs_and_nothing_breaks(hostile: Report, open_page: Open) -> None:
    page = open_page(hostile.page, figures=True, width=400)
    page.locator(".entry").first.click()
    item = page.locator(".item")
    item.locator("h3").wait_for()
    for summary in page.locator("main details:not([open]) > summary").all():
        if summary.is_visible():
            summary.click()
    page.locator("#verdict button.link").first.click()
    page.wait_for_timeout(300)
    assert page.evaluate("globalThis.hit") is None
    assert page.heard == []
    # What a page of this program has, and not one element more.
    assert page.locator("script:not([type]), script[type=module], script[type='']").count() == 2
    assert page.locator("img, iframe, object, embed, form[action], a:not([href^='#'])").count() == 0
    assert "<script>globalThis.hit=1</script>" in item.locator("h3").inner_text()
    assert page.locator("figure .message").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert hostile.bytes < 5_000_000


def test_what_turns_or_hides_text_is_shown_by_name(hostile: Report, open_page: Open) -> None:
    page = open_page(hostile.page)
    page.locator(".entry").first.click()
    heading = page.locator(".item h3")
    heading.wait_for()
    names = heading.locator(".hidden-char").all_inner_texts()
    assert names[:5] == ["NUL", "RLO", "LRI", "U+0007", "U+001B"]
    assert "\u202e" not in page.locator("body").inner_text()
    assert page.locator(".item .passage").first.evaluate("node => getComputedStyle(node).unicodeBidi") == "plaintext"  # fmt: skip


def test_a_long_output_is_opened_by_a_button(hostile: Report, open_page: Open) -> None:
    page = open_page(hostile.page)
    page.locator(".entry").first.click()
    output = page.locator(".item .side .output").first
    output.wait_for()
    more = output.get_by_role("button", name="show all")
    if more.count():
        more.click()
        assert len(output.inner_text()) > 20_000
    assert page.heard == []


def test_half_a_surrogate_pair_neither_runs_nor_stops_the_page(open_page: Open, tmp_path: Path) -> None:
    half = "\ud800 half \udfff"
    table = {"title": "", "columns": [half] * 4, "rows": [[half] * 4] * 2, "rules": [], "notes": [half]}
    arm = {"name": half, "null": False, "verdict": {"outcome": "mixed", "label": "mixed", "headline": half, "advice": half, "rest": half, "outcomes": [table], "texts": [[half, half]] * 2,
                                             "word": "picked", "why": half, "standard": half, "same_passage": half},
           "unsaid": 1, "excluded": [half], "stopping": [half], "located": half,
           "accuracies": [["open", half, {"value": 0.5, "low": 0.4, "high": 0.6, "shown": f"50 [40, 60] {half}", "n": 9}, None]],
           "tables": {name: [] for name in ("fates", "noise", "ladder", "drops", "checks", "ranks", "oracle", "one-shot", "long", "located", "tests")}}  # fmt: skip
    run = {"name": half, "base": half, "facts": [[half, half]], "command": half, "arms": [arm], "tables": {},
           "reference": [{"name": half, "outcome": half, "changes": [half]}], "noise": [half], "at_length": False, "unfinished": [[half, half]], "failed": [], "notes": [],
           "broken": []}  # fmt: skip
    explorer = {"served": False, "probes": {name: {"label": name, "short": name, "options": None} for name in ("open", "choice")},
                "formats": ["open", "choice"], "asked": [], "prompts": {}, "codes": {}, "chat": [False],
                "block": 24, "omitted": []}  # fmt: skip
    columns = {"arms": [[0, half]], "languages": [half],
               "items": {"run": [0], "language": [0], "id": [half], "question": [half], "gold": ["x"], "said": [half], "rank": [1]},
               "rows": {"item": [0], "arm": [0], "fate": [1], "rank": [2], "said": [half]},
               "before": {"open": "2", "choice": "2"}, "after": {"open": "1", "choice": "2"}}  # fmt: skip
    document = {
        "anomia": "0",
        "title": half,
        "runs": [run],
        "figures": [],
        "explorer": explorer,
        "ways": half,
        "forms": [[half, half]],
    }
    file = tmp_path / "page.html"
    file.write_text(page(document, specs=compressed({}), index=compressed(columns), blocks=[compressed([])]))
    shown = open_page(file)
    assert [said for said in shown.heard if "error" in said.lower()] == []
    assert "U+D800 half" in shown.locator("h1").inner_text()
    assert shown.locator("#verdicts .message").inner_text().startswith("This run is unfinished.")


def test_data_can_not_end_the_element_that_it_stands_in() -> None:
    text = json_text({"</script><!--": ATTACK})
    assert not set(text) & set("<>&\x00")
    assert json.loads(text) == {"</script><!--": ATTACK}
