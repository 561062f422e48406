"""What `anomia show` prints: everything, verdict first, within 100 columns."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from anomia.measure.diagnosis import diagnose
from anomia.measure.hygiene import hygiene
from anomia.measure.judge import judge
from anomia.measure.rates import Estimate
from anomia.measure.results import Results, read_results, results_json
from anomia.report.render.page import plain
from anomia.report.tables.hygiene import asked
from anomia.report.terminal import closing_view, run_view, verdict_view
from tests.measure.planted import VOCABULARY, study_records
from tests.measure.test_results import ARMS, write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    records = study_records(ARMS, languages=("english", "indonesian", "swahili"), items=60)
    return read_results(write_run(tmp_path_factory.mktemp("run") / "r", records))


def printed(*views: object, width: int = 100) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width)
    for view in views:
        console.print(view)
    return out.getvalue()


def test_all_tables_in_order_and_nothing_is_cut(results: Results) -> None:
    text = printed(run_view(results, "wanda:0.5"), closing_view(results))
    titles = (
        "wanda:0.5: ", "Fates of the items", "Dissociation: of the items", "Next to noise", "Accuracy, base",
        "above guessing that was lost (", "Checks of the items", "Other ways to score", "From base to arm", "Median rank",
        "Oracle recovery over", "Open failures", "Chance that one of k", "One example", "Paired tests", "Arm against arm", "Accuracy against sparsity and size",
        "Hygiene: what was asked", "Hygiene: what came back", "[low, high]",
    )  # fmt: skip
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100


NUMBER = re.compile(r"[−\d][\d,.]*")


@pytest.mark.parametrize("width", [60, 80, 110])
def test_no_cell_is_cut_however_narrow_the_terminal(results: Results, width: int) -> None:
    arm = "checkpoint:makers/some-rather-long-model-name-4bit-g128"
    named = results.records.with_columns(arm=pl.col("arm").replace("wanda:0.5", arm))
    found = results._replace(
        records=named, diagnosis=diagnose(named), verdicts=judge(named), hygiene=hygiene(named)
    )
    views = (run_view(found, arm), closing_view(found))
    wide, narrow = printed(*views, width=400), printed(*views, width=width)
    assert max(map(len, narrow.splitlines())) <= width
    assert "…" not in narrow
    left = Counter(NUMBER.findall(wide)) - Counter(NUMBER.findall(narrow))
    # A folded name may break at its own digits.
    assert not {number for number in left if number not in arm}
    # Every part of a table has the names of its rows.
    assert narrow.count("indonesian ") >= wide.count("indonesian ")
    assert arm in "".join(line.strip(" │") for line in narrow.splitlines())


def test_the_grader_is_named(results: Results) -> None:
    assert "three grades: containment " in printed(run_view(results, "wanda:0.5"))
    other = results._replace(study={**results.study, "grader": "last_number"})
    text = printed(run_view(other, "wanda:0.5"))
    assert "three grades: last_number " in text
    assert "containment" not in text


def test_a_run_without_optional_probes_shows_what_it_has(results: Results, tmp_path: Path) -> None:
    bare = results.records.with_columns(
        pl.lit(None).cast(kind).alias(name)
        for name, kind in results.records.schema.items()
        if name.startswith(("beams", "samples", "sample_", "gold_", "control_", "one_", "zero_", "kl", "top1", "cued",
                            "choice_hard", "choice_passage", "choice_no"))
    )  # fmt: skip
    found = read_results(write_run(tmp_path / "r", bare))
    text = printed(run_view(found, "wanda:0.5"), closing_view(found))
    assert "Fates of the items" in text
    for absent in ("Median rank", "Oracle recovery over", "One example", "same passage:", "hard:"):
        assert absent not in text


def test_stopping_is_said(results: Results) -> None:
    look = {
        "languages": ["english"], "items": 64, "available": 180, "reason": "the interval is 0.199 wide, at most 0.2",
        "dissociation": Estimate(0.3, 0.21, 0.4, 60, 60)._asdict(),
    }  # fmt: skip
    stopped = results._replace(stopping={"width": 0.2, "arms": {"wanda:0.5": [look]}})
    text = " ".join(printed(run_view(stopped, "wanda:0.5")).split())
    assert "stopped after 64 of 180 items: the interval is 0.199 wide" in text
    assert "30 [21, 40]" in text


def test_a_language_in_which_one_format_alone_can_be_tested_has_its_line(tmp_path: Path) -> None:
    strong = study_records(ARMS, languages=("english",), items=60)
    weak = study_records(ARMS, languages=("swahili",), items=60, open_accuracy=0.03, seed=3)
    found = read_results(write_run(tmp_path / "r", pl.concat([strong, weak])))
    verdict = next(v for v in found.verdicts if (v.arm, v.scope) == ("wanda:0.5", "swahili"))
    statement = verdict.words.one_format
    assert statement.startswith("Only multiple choice could be tested: it ")
    assert statement.endswith(" This is not a clear change.")
    for width in (60, 110):
        text = " ".join(printed(verdict_view(found, "wanda:0.5"), width=width).replace("│", " ").split())
        assert f"swahili: {statement}" in text
        assert "english: " not in text


def test_flips_of_noise_have_intervals_and_ranks_are_of_tokens(results: Results) -> None:
    noise = {
        "items": 32, "batch_size": 8, "flips": {"open": 3, "choice": 0, "open_text": 3},
        "languages": {"english": {"items": 22, "open": 3, "choice": 0}},
    }  # fmt: skip
    (table,) = plain(asked(results._replace(hygiene=hygiene(results.records, {}, noise))))
    (english,) = (
        dict(zip(table["columns"], row, strict=True)) for row in table["rows"] if row[0] == "english"
    )
    assert english["asked again"] == "22"
    assert re.fullmatch(r"14 \[\d+, \d+\]", english["flips, open (%)"])
    assert re.fullmatch(r"0 \[0, \d+\]", english["flips, choice (%)"])
    thai = dict(zip(table["columns"], table["rows"][-1], strict=True))
    assert {thai[name] for name in ("asked again", "flips, open (%)", "flips, choice (%)")} == {"–"}
    text = " ".join(printed(run_view(results, "wanda:0.5"), width=300).split())
    assert re.search(
        rf"picked but no longer answered: median rank 3 \[\d+, \d+\]\*? of {VOCABULARY:,} tokens", text
    )


def test_what_nobody_looked_for_is_not_none(results: Results, tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", results.records)
    found = read_results(run, exclude=["gold_over_limit"])
    assert found.excluded == {"gold_over_limit": None}
    assert results_json(found)["excluded"] == {"gold_over_limit": None}
    assert "excluded on request: gold over limit: not known" in printed(closing_view(found))
