"""A star stands where it tells an interval from its neighbours; where most would have one, a sentence does."""

from __future__ import annotations

import pytest

from anomia.measure.rates import Estimate
from anomia.report.figures.parts import measured, note, percent_interval, settled, starred
from anomia.report.render.latex import latex
from anomia.report.render.markdown import markdown
from anomia.report.render.page import plain
from anomia.report.render.stars import ALL_FEW, MOST_FEW, STARRED, stars
from anomia.report.tables.table import Column, NoteValue, Table

GOOD, FEW = Estimate(0.5, 0.4, 0.6, 90, 90), Estimate(0.5, 0.2, 0.8, 12, 12, "wilson", False)


@pytest.mark.parametrize(
    ("unchecked", "intervals", "kept", "note"),
    [(0, 4, True, ""), (0, 0, True, ""), (1, 4, True, STARRED), (2, 4, True, STARRED), (3, 4, False, MOST_FEW), (4, 4, False, ALL_FEW)],
)  # fmt: skip
def test_the_rule(unchecked: int, intervals: int, kept: bool, note: str) -> None:
    assert stars(unchecked, intervals) == (kept, note)


def made(*estimates: Estimate) -> Table:
    columns = [
        Column("name", "name [1, 2]*", "text"),
        *(Column(f"c{n}", str(n)) for n in range(len(estimates))),
    ]
    return Table("t", "Made up", columns, [("a name with [3, 4]*", *estimates)], ["a note"])


def test_tables_of_the_terminal_and_of_the_page() -> None:
    (few,) = plain(made(GOOD, GOOD, FEW))
    assert few["rows"] == [["a name with [3, 4]*", "50 [40, 60]", "50 [40, 60]", "50 [20, 80]*"]]
    assert few["notes"] == ["a note", STARRED]
    (most,) = plain(made(GOOD, FEW, FEW))
    assert most["rows"] == [["a name with [3, 4]*", "50 [40, 60]", "50 [20, 80]", "50 [20, 80]"]]
    assert most["notes"] == ["a note", MOST_FEW]
    (none,) = plain(made(GOOD))
    assert none["notes"] == ["a note"]


def test_intervals_in_notes_count() -> None:
    told = made(GOOD)._replace(notes=[("of which ", NoteValue(FEW), " %"), ("and ", NoteValue(FEW))])
    (table,) = plain(told)
    assert table["notes"] == ["of which 50 [20, 80] %", "and 50 [20, 80]", MOST_FEW]


def test_table_files() -> None:
    assert "[20.0, 80.0]\\*" in markdown(made(GOOD, FEW))
    for text in (markdown(made(FEW)), latex(made(FEW))):
        assert "[20.0, 80.0]*" not in text.replace("\\", "")
        assert "not validated by simulation" in text


def test_figures() -> None:
    rows = [measured(estimate, note="n") for estimate in (GOOD, GOOD, FEW)]
    assert [row["shown"][-1] for row in settled(rows)] == ["]", "]", "*"]
    assert starred(rows) == f" {STARRED}"
    few = [measured(estimate) for estimate in (GOOD, FEW, FEW)] + [measured(None)]
    assert [row["shown"][-1] for row in settled(few)] == ["]", "]", "]", "w"]
    assert starred(few) == f" {MOST_FEW}"


def test_only_intervals_lose_their_stars() -> None:
    (row,) = settled([measured(FEW, case="a*b [3, 4]*", note=note("net " + percent_interval(FEW), 12))])
    assert (row["case"], row["note"]) == ("a*b [3, 4]*", "net 50 [20, 80] · n 12")
    *_, row = settled(
        [measured(GOOD), measured(FEW, case="a*b [3, 4]*", note=note(percent_interval(FEW), 12))]
    )
    assert (row["case"], row["note"]) == ("a*b [3, 4]*", "50 [20, 80]* · n 12")
