"""Tables of which nothing is cut, however narrow the terminal is."""

from __future__ import annotations

import pytest

from anomia.report.render.terminal import view
from anomia.report.tables.table import Column, Table
from tests.report.test_terminal import printed


def test_every_part_of_a_table_names_its_rows() -> None:
    columns = [Column("language", "language", "text"), *(Column(f"c{n}", f"column {n}") for n in range(6))]
    rows = [
        (language, *(f"{n}00 [−1{n}, 2{n}]*" for n in range(6))) for language in ("english", "indonesian")
    ]
    text = printed(view(Table("t", "Made up", columns, rows)), width=60)
    assert text.count("Made up") == 1
    assert text.count("language") == text.count("indonesian") == 2
    for n in range(6):
        assert text.count(f"column {n}") == 1
        assert text.count(f"{n}00 [−1{n}, 2{n}]*") == 2


@pytest.mark.parametrize("width", [60, 80, 110])
def test_cells_and_names_without_room_are_folded(width: int) -> None:
    columns = [Column("arm", "arm", "text"), Column("number", "number")]
    text = printed(view(Table("t", "Made up", columns, [("n" * 300, "7" * 500)])), width=width)
    assert (text.count("n") - len("n"), text.count("7")) == (300, 500)
    assert max(map(len, text.splitlines())) <= width


def test_a_table_without_rows_is_not_shown() -> None:
    assert printed(view(Table("t", "Made up", [Column("arm", "arm", "text")], [], ["a note"]))) == ""
