"""Cells in words, with few digits and with more."""

from __future__ import annotations

import pytest

from anomia.measure.rates import Estimate
from anomia.report.render.words import paragraph, probability, shown
from anomia.report.tables.table import Cell, Change, CountAndShare, Kind, Marked, NoteValue, Table

FEW = Estimate(-0.05, -0.2, 0.1, 40, 40, "x", False)
WHOLE = Estimate(0.5, 0.4, 0.6, 90, 90)


@pytest.mark.parametrize(
    ("cell", "kind", "brief", "precise"),
    [
        (None, "share", "–", "–"),
        (FEW, "share", "−5 [−20, 10]*", "−5.0 [−20.0, 10.0]*"),
        (FEW, "number", "−0.05 [−0.20, 0.10]*", "−0.050 [−0.200, 0.100]*"),
        (Estimate(-0.001, -0.002, 0.0, 90, 90), "share", "0 [0, 0]", "−0.1 [−0.2, 0.0]"),
        (Estimate(3.5, 2.0, 1204.0, 90, 90), "rank", "3.5 [2, 1,204]", "3.5 [2.0, 1204.0]"),
        (0.256, "share", "26", "25.6"),
        (17.0, "rank", "17", "17"),
        (0.0004, "probability", "< 0.001", "< 0.001"),
        (1234, "count", "1,234", "1,234"),
        (536_000_000, "bytes", "536 MB", "536 MB"),
        (Change(WHOLE, None), "share", "50 [40, 60] → –", "50.0 [40.0, 60.0] → –"),
        (CountAndShare(3, None), "count", "3", "3"),
        (CountAndShare(3, WHOLE), "count", "3 · 50 [40, 60]", "3 · 50.0 [40.0, 60.0]"),
        (Marked(1.3, " w"), "number", "1.30 w", "1.3 w"),
        ("too few", "share", "too few", "too few"),
    ],
)
def test_cells(cell: Cell, kind: Kind, brief: str, precise: str) -> None:
    assert shown(cell, kind) == brief
    assert shown(cell, kind, precise=True) == precise


def test_decimals_that_a_column_asks_for() -> None:
    assert shown(0.5012, "share", 1) == "50.1"
    assert shown(12.6, "number", 0) == "13"


def test_small_print() -> None:
    assert probability(0.03) == "0.030"


def test_notes_are_the_sentences_of_a_paragraph() -> None:
    table = Table("t", "T", [], [], ["one: two", ("three ", NoteValue(WHOLE), " %."), "four."])
    assert paragraph(table) == "one: two. three 50.0 [40.0, 60.0] %. four."
