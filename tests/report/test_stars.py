"""A star stands where it tells an interval from its neighbours; where most would have one, a sentence does."""

from __future__ import annotations

import pytest

from anomia.measure.rates import Estimate
from anomia.report.figures.parts import measured, settled, starred
from anomia.report.page.plain_tables import plain_tables
from anomia.report.sheet import add_column, interval, new_table, sheet
from anomia.report.stars import ALL_FEW, MOST_FEW, STARRED, stars, without_stars
from anomia.report.table_files.table import Column, Table
from anomia.report.table_files.write import latex, markdown

GOOD, FEW = Estimate(0.5, 0.4, 0.6, 90, 90), Estimate(0.5, 0.2, 0.8, 12, 12, "wilson", False)


@pytest.mark.parametrize(
    ("unchecked", "intervals", "kept", "note"),
    [(0, 4, True, ""), (0, 0, True, ""), (1, 4, True, STARRED), (2, 4, True, STARRED), (3, 4, False, MOST_FEW), (4, 4, False, ALL_FEW)],
)  # fmt: skip
def test_the_rule(unchecked: int, intervals: int, kept: bool, note: str) -> None:
    assert stars(unchecked, intervals) == (kept, note)


def table(*estimates: Estimate) -> list[dict[str, object]]:
    made = new_table("Made up")
    add_column(made, "name [1, 2]*")
    for number in range(len(estimates)):
        add_column(made, str(number))
    made.add_row("a name with [3, 4]*".replace("[", "\\["), *map(interval, estimates))
    return plain_tables(sheet(made, "a note"))


def test_tables_of_the_terminal_and_of_the_page() -> None:
    (few,) = table(GOOD, GOOD, FEW)
    assert few["rows"] == [["a name with [3, 4]*", "50 [40, 60]", "50 [40, 60]", "50 [20, 80]*"]]
    assert few["notes"] == ["a note", STARRED]
    (most,) = table(GOOD, FEW, FEW)
    assert most["rows"] == [["a name with [3, 4]*", "50 [40, 60]", "50 [20, 80]", "50 [20, 80]"]]
    assert most["notes"] == ["a note", MOST_FEW]
    (none,) = table(GOOD)
    assert none["notes"] == ["a note"]


def test_table_files() -> None:
    def made(*estimates: Estimate) -> Table:
        columns = (Column("arm", "arm", "text"), *(Column(f"c{n}", f"c{n}") for n in range(len(estimates))))
        return Table("t", "T", "N.", columns, [("a", *estimates)], 1)

    assert "[20.0, 80.0]\\*" in markdown(made(GOOD, FEW))
    for text in (markdown(made(FEW)), latex(made(FEW))):
        assert "*" not in text
        assert "not validated by simulation" in text


def test_figures() -> None:
    rows = [measured(estimate, note="n") for estimate in (GOOD, GOOD, FEW)]
    assert [row["shown"][-1] for row in settled(rows)] == ["]", "]", "*"]
    assert starred(rows) == f" {STARRED}"
    few = [measured(estimate) for estimate in (GOOD, FEW, FEW)] + [measured(None)]
    assert [row["shown"][-1] for row in settled(few)] == ["]", "]", "]", "w"]
    assert starred(few) == f" {MOST_FEW}"


def test_only_intervals_lose_their_stars() -> None:
    assert without_stars("a*b [x]* 5 [1, 2]* [−1.5, 1,204]*") == "a*b [x]* 5 [1, 2] [−1.5, 1,204]"
