"""Do the summaries of docs/statistics.md say what its CSV files say, and do these keep what the page promises?"""

from collections import Counter

import pytest

from . import null_studies, tables, verdict_table
from .coverage_table import FIGURES, Row, measure, promised, rate_cells, write_coverage, write_false_alarms
from .simulation import Cell, Coverage, grid
from .test_null_studies import ALLOWED as ALLOWED_ALARMS
from .test_uniform_studies import ALLOWED
from .uniform_studies import Design, Truth
from .verdict_table import Row as Studies
from .verdict_table import alike_rows, apart_rows, cells, gate_rows, language_rows, outcome_row

PROMISE = 0.93


def test_the_page_summarizes_the_files():
    page = tables.PAGE.read_text(encoding="utf-8")
    assert page == tables.with_summaries(page), "write it anew: PYTHONPATH=src:tests python -m measure.tables"
    for file in tables.DATA.glob("*.csv"):
        assert f"data/statistics/{file.name})" in page


def test_coverage_keeps_its_promise():
    rows = tables.read("coverage")
    below = [row for row in rows if float(row["covered"]) < PROMISE]
    assert [row for row in below if row["promised"] == "yes"] == []
    # The page names all others.
    assert {(row["items"], row["base"], row["changed"], row["worse"]) for row in below} == {
        ("20", "0.1", "0.3", "0.3"),
        ("50", "0.1", "0.3", "0.3"),
        ("50", "0.98", "", ""),
    }
    summary = {row["figure"]: row for row in tables.read("coverage-promised")}
    assert list(summary) == list(FIGURES)
    assert min(float(row["lowest"]) for row in summary.values()) >= PROMISE
    for figure in ("rate", "net share"):
        kept = [float(r["covered"]) for r in rows if (r["figure"], r["promised"]) == (figure, "yes")]
        assert len(kept) == int(summary[figure]["cells"])
        assert f"{min(kept):.3f}" == summary[figure]["lowest"]
        assert sum(kept) / len(kept) == pytest.approx(float(summary[figure]["mean"]), abs=0.001)


def test_every_cell_of_the_grid_is_in_a_file():
    rows = tables.read("coverage")
    for figure, every in (("raw drop", list(grid((20, 50, 200)))), ("rate", rate_cells())):
        known = [row for row in rows if row["figure"] == figure]
        summarized = tables.read("coverage-promised")[FIGURES.index(figure)]
        outside = sum(row["promised"] == "no" for row in known)
        assert outside + int(summarized["cells"]) == len(every)


def test_no_direction_out_of_equal_losses():
    found: dict[tuple[bool, str, str], list[float]] = {}
    for row in tables.read("verdicts"):
        if row["lost_open"] == row["lost_choice"]:
            key = (row["lost_open"] == "0", row["per_passage"], row["languages"])
            found.setdefault(key, []).append(float(row["directional"]))
    assert max(max(shares) for shares in found.values()) <= 100 * ALLOWED
    for row in tables.read("no-direction"):
        shares = found[row["lost"] == "nothing", row["per_passage"], row["languages"]]
        assert float(row["most"]) == max(shares)
        assert float(row["mean"]) == pytest.approx(sum(shares) / len(shares), abs=0.1)


def test_false_alarms_are_as_rare_as_promised():
    for row in tables.read("false-alarms"):
        assert max(float(share) for share in list(row.values())[4:]) <= 100 * ALLOWED_ALARMS


def test_noise_passes_the_gate_and_a_lost_fifth_does_not():
    rows = tables.read("gate")
    assert min(float(row["all pass"]) for row in rows if row["lost_open"] == "0") >= 95
    assert {row["all pass"] for row in rows if row["lost_open"] == "0.2"} == {"0.0"}


def columns(name: str) -> list[str]:
    return list(tables.read(name)[0])


def test_the_simulations_write_such_files(tmp_path, monkeypatch):
    documented = {name: columns(name) for name in ("coverage", "coverage-promised", "no-direction", "directions", "verdicts")}  # fmt: skip
    monkeypatch.setattr(tables, "DATA", tmp_path)
    cell = Cell(50, 1, 0.0, 0.5, 0.3, 0.7)
    rare = Cell(20, 5, 0.2, 0.1, 0.3, 0.3)
    whole, part = Coverage(0.9504, 1.0), Coverage(0.8631, 0.612)
    found = dict.fromkeys(FIGURES[:4], whole)
    write_coverage(
        [Row(cell, found), Row(rare, {"gap": part})],
        [(Cell(50, 1, 0.0, 0.5, 0.0, 0.0), whole)],
        [(cell, whole)],
    )
    assert columns("coverage") == documented["coverage"]
    assert columns("coverage-promised") == documented["coverage-promised"]
    assert [list(row.values()) for row in tables.read("coverage")][4] == [
        "gap", "20", "5", "0.2", "0.1", "0.3", "0.3", "0.863", "61", "no",
    ]  # fmt: skip
    studies = [
        Studies(Truth(0.2, 0.02), Design(4), Counter({"illusion": 3, "mixed": 1})),
        Studies(Truth(0.2, 0.2), Design(4), Counter({"loss": 3, "mixed": 1})),
    ]
    assert [row["share"] for row in apart_rows(studies)] == ["75.0", "100.0"]
    assert [row["most"] for row in alike_rows(studies)] == ["25.0"]
    assert list(outcome_row(studies[0])) == documented["verdicts"]
    assert [list(row) for row in alike_rows(studies)] == [documented["no-direction"]]
    assert list(next(apart_rows(studies))) == documented["directions"]


def test_the_gate_languages_and_false_alarms_too(tmp_path, monkeypatch):
    names = ("gate", "language-verdicts", "false-alarms")
    documented = {name: columns(name) for name in names}
    for name, value in {
        "FEWER_STUDIES": 1, "OLD_STUDIES": 1, "LANGUAGES": (1, 2), "CHURNS": ((0.0, 0.0), (0.1, 0.1)),
        "GATE_LOSSES": ((0.1, 0.1),), "GATE_CHURNS": ((0.1, 0.1),), "null_arms": list,
    }.items():  # fmt: skip
        monkeypatch.setattr(verdict_table, name, value)
    assert list(*gate_rows()) == documented["gate"]
    assert list(*language_rows()) == documented["language-verdicts"]
    monkeypatch.setattr(null_studies, "STUDIES", 2)
    monkeypatch.setattr(null_studies, "NULLS", ((40, 0.35, 0.9),))
    monkeypatch.setattr(tables, "DATA", tmp_path)
    write_false_alarms()
    assert columns("false-alarms") == documented["false-alarms"]


def test_every_truth_has_a_row_of_outcomes():
    names = ("lost_open", "lost_choice", "flips_open", "flips_choice", "per_passage", "languages")
    known = [tuple(row[name] for name in names) for row in tables.read("verdicts")]
    empty = Counter({"intact": 1})
    wanted = [outcome_row(Studies(*cell, empty)) for cell in cells()]
    assert known == [tuple(row[name] for name in names) for row in wanted]


@pytest.mark.slow
def test_a_cell_measured_again_is_the_one_in_the_file():
    cell = Cell(20, 1, 0.0, 0.1, 0.3, 0.3)
    truth = ["20", "1", "0", "0.1", "0.3", "0.3"]
    known = {row["figure"]: row for row in tables.read("coverage") if list(row.values())[1:7] == truth}
    for name, coverage in measure(cell).found.items():
        assert not promised(cell, coverage)
        assert f"{coverage.covered:.3f}" == known[name]["covered"]
