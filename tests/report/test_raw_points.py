"""Wherever a gap compares shares, the same in raw points stands next to it, with its interval."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from rich.console import Console

from anomia.cli import main
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.gate import DEFAULTS, check_run
from anomia.measure.results import Results, read_results
from anomia.records import write_rows
from anomia.report.figures import NamedRun, draw
from anomia.report.gate_report import GAP, basis, decision_json, junit, markdown
from anomia.report.render.page import plain
from anomia.report.render.words import shown
from anomia.report.share import card
from anomia.report.tables.arm_results import arm_results
from anomia.report.tables.losses import LOSSES, losses
from anomia.report.tables.runs import between, compared
from anomia.report.tables.table import Table
from anomia.report.terminal import side_by_side
from tests.measure.planted import Damage, study_records

ARMS = {"wanda:0.5": Damage(open=0.4, choice=0.05, seed=1), "wanda:0.3": Damage(open=0.1, seed=2)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "r"
    folder.mkdir()
    records = study_records(ARMS, languages=("english", "thai"), items=60)
    strict = records.with_columns(open_strict=records["open_correct"])
    (folder / "study.yaml").write_text(
        yaml.safe_dump({"base": "x", "data": "d", "arms": list(ARMS), "provenance": {}})
    )
    write_rows(strict.to_dicts(), folder / "records" / "all.parquet")
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return read_results(run)


def cell(results: Results, measure: str, arm: str = "wanda:0.5") -> str:
    found = lookup(results.diagnosis.figures)[arm, measure, POOLED]
    assert found is not None
    return shown(found._replace(checked=True))


def gaps_and_raw(columns: list[str], row: list[str]) -> list[tuple[str, str]]:
    """The cell of every gap, and the one after it, whose header must say that it is in raw points."""
    found = []
    for n, header in enumerate(columns):
        if "gap" in header and "raw" not in header:
            assert "raw" in columns[n + 1], columns
            found.append((row[n].replace("*", ""), row[n + 1].replace("*", "")))
    return found


def test_every_gap_of_the_table_of_losses_has_its_raw_points(results: Results) -> None:
    (table,) = plain(losses(arm_results(results, "wanda:0.5")))
    (pooled,) = (row for row in table["rows"] if row[0] == POOLED)
    asked = lookup(results.diagnosis.figures)
    gaps = [
        loss.measure
        for loss in LOSSES
        if loss.measure.startswith("gap") and asked.get(("wanda:0.5", loss.measure, POOLED)) is not None
    ]
    assert len(gaps) > 4
    assert [measure for measure in gaps if "strict" in measure]
    assert gaps_and_raw(table["columns"], pooled) == [
        (cell(results, measure), cell(results, measure.replace("gap", "raw_gap", 1))) for measure in gaps
    ]


@pytest.mark.parametrize("form", ["between", "side by side"])
def test_arms_and_runs_next_to_each_other_have_raw_points(results: Results, form: str) -> None:
    tables: dict[str, list[Table]] = {
        "between": [between(results)],
        "side by side": [compared(results, name) for name in ("a", "b")],
    }
    for table in plain(*tables[form]):
        for row in table["rows"]:
            ((gap, raw),) = gaps_and_raw(table["columns"], row)
            assert "[" in gap
            assert "[" in raw
            if form == "between":
                assert table["rows"][0][:2] == list(ARMS)
                (found,) = (
                    row.estimate
                    for row in results.diagnosis.between
                    if (row.measure, row.scope) == ("raw_gap/choice", POOLED)
                )
                assert raw == shown(found._replace(checked=True))
            else:
                assert raw == cell(results, "raw_gap/choice", row[0])


def test_an_arm_against_an_arm_in_raw_points_is_the_difference_of_their_raw_gaps(results: Results) -> None:
    figures = lookup(results.diagnosis.figures)
    one, other = (figures[arm, "raw_gap/choice", POOLED] for arm in ARMS)
    (found,) = (
        row.estimate
        for row in results.diagnosis.between
        if (row.measure, row.scope) == ("raw_gap/choice", POOLED)
    )
    assert one
    assert other
    assert found
    assert found.value == pytest.approx(one.value - other.value)
    assert found.low < found.value < found.high


def test_figures_across_models_have_a_panel_in_raw_points(results: Results) -> None:
    figure = draw("figure5", [NamedRun("r", results)])
    raw = figure.table.filter(measure="raw_gap/choice", case=figure.table["case"][0])
    found = lookup(results.diagnosis.figures)["wanda:0.5", "raw_gap/choice", POOLED]
    assert found
    assert raw["value"].item() == pytest.approx(found.value)
    assert "a larger share" in figure.caption
    assert "raw points" in figure.alt


def test_the_gate_shows_raw_points_next_to_its_gap(run: Path, results: Results) -> None:
    gate, about = check_run(results, DEFAULTS), basis(results)
    raw = lookup(results.diagnosis.figures)["wanda:0.5", "raw_gap/choice", POOLED]
    assert raw
    words = f"in raw points {100 * raw.value:.1f} ["
    lines = markdown(gate, name="r", basis=about).splitlines()
    rows = [line for line in lines if line.startswith("| wanda:0.5 ") and "| gap |" in line]
    assert [words in line for line in rows] == [True]
    assert not any("raw points" in line for line in lines if "open retained" in line)
    (case,) = ElementTree.fromstring(junit([("r", gate)], {"r": about})).iterfind(
        ".//testsuite[@name='wanda:0.5']/testcase[@name='gap (all items) ≤ 20 %']/*"
    )
    assert words in case.attrib["message"]
    (decided,) = decision_json([("r", gate)], gate.result, 1, {"r": about})["runs"]
    found = {(check["arm"], check["name"]): check["raw_points"] for check in decided["checks"]}
    assert found["wanda:0.5", GAP] == raw._asdict()
    assert {name for (_, name), points in found.items() if points} == {GAP}


def test_the_gate_says_what_was_excluded_and_what_is_not_known(
    run: Path, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items are flagged in one column; in the other nobody looked, as in imported runs."""
    flagged = results.records.with_columns(gold_in_question=results.records["index"] == 0)
    copy = tmp_path / "r"
    copy.mkdir()
    (copy / "study.yaml").write_text((run / "study.yaml").read_text())
    write_rows(flagged.to_dicts(), copy / "records" / "all.parquet")
    flags = (
        "gate",
        str(copy),
        "--exclude",
        "gold_in_question,gold_over_limit",
        "--junit",
        str(tmp_path / "x.xml"),
    )
    with pytest.raises(SystemExit):
        main([*flags])
    words = "excluded on request: gold in question: 2 items, gold over limit: not known"
    assert words in capsys.readouterr().out
    assert words in (tmp_path / "x.xml").read_text()
    with pytest.raises(SystemExit):
        main([*flags, "--json"])
    (decided,) = json.loads(capsys.readouterr().out)["runs"]
    assert decided["excluded"] == {"gold_in_question": 2, "gold_over_limit": None}
    with pytest.raises(SystemExit):
        main(["gate", str(copy)])
    assert "left out on request" not in capsys.readouterr().out
    less = read_results(copy, exclude=["gold_in_question", "gold_over_limit"])
    out = io.StringIO()
    Console(file=out, width=200).print(side_by_side([(Path("a"), less), (Path("b"), results)]))
    assert out.getvalue().count(words) == card("r", [("a", less), ("b", results)]).count(words) == 1
