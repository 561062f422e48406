"""Dissociation by language (paper, Figure 1) and all four fates (Figure 8)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from anomia.measure.frame import POOLED
from anomia.report.figures.cases import Case, Drawn, scopes
from anomia.report.figures.parts import (
    EVERY,
    INTERVALS,
    SCOPES,
    Row,
    beside,
    compared,
    filtered,
    listed,
    measured,
    panels,
    percent_axis,
    place,
    rows_axis,
    starred,
    tooltip,
)
from anomia.report.figures.style import COLORS


def draw_dissociation(found: Sequence[Case]) -> Drawn | None:
    """Share of both-correct items that the arm still picks and no longer says, by language."""
    rows = [row for number, case in enumerate(found) for row in _rates(case, number)]
    if all(row["value"] is None for row in rows):
        return None
    y = rows_axis("where")
    told = tooltip(
        case="arm", where="language", shown="dissociation (%)", choice_only="choice only", n="both correct"
    )
    bars = (
        alt.Chart()
        .transform_filter(SCOPES)
        .mark_bar(color=COLORS["choice_only"], height={"band": 0.62})
        .encode(x=percent_axis("dissociation rate: choice only, of items that base answers both ways (%)"), y=y, tooltip=told)
    )  # fmt: skip
    whiskers = (
        alt.Chart()
        .transform_filter(SCOPES)
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X(field="low", type="quantitative"), x2=alt.X2("high"), y=y)
    )
    text = beside("note").transform_filter(SCOPES).encode(y=y)
    chart = filtered(
        panels([bars, whiskers, text], rows), (name for case in found for name in case.languages)
    )
    return Drawn(
        name="figure1",
        title="Answers that are still picked and no longer said",
        caption=(
            f"{compared(found)}. Dissociation rate = choice only / items that base answers both in open and "
            f"in choice (n). {INTERVALS}. Languages with fewer than 10 such items get counts and no rate."
            f"{starred(rows)}"
        ),
        alt=_alt(found, rows),
        chart=chart,
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _rates(case: Case, number: int) -> list[Row]:
    counts = {
        row.scope: row.counts
        for row in case.run.results.diagnosis.fates
        if (row.arm, row.options) == (case.arm, "choice")
    }
    rows = []
    for scope in scopes(case):
        if scope not in counts:
            continue
        found = counts[scope]
        estimate = case.figures.get((case.arm, "dissociation/choice", scope))
        row = measured(estimate, **place(case, number, scope), choice_only=found.choice_only)
        row["n"] = found.both_correct
        row["note"] = f"{row['shown']} · n {found.both_correct}"
        if estimate is None:
            row["note"] = f"too few: {found.choice_only} of {found.both_correct}"
        rows.append(row)
    return rows


def _alt(found: Sequence[Case], rows: Sequence[Row]) -> str:
    told = []
    for case in found:
        mine = [row for row in rows if row["case"] == case.label]
        words = ", ".join(
            f"{EVERY if row['scope'] == POOLED else row['where']} {row['note']}" for row in mine
        )
        told.append(f"{case.label}: {words}")
    return f"Bars of the dissociation rate in per cent with its interval. {listed(told)}."
