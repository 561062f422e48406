"""Drops of accuracy along the ladder (paper, Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from anomia.measure import measures
from anomia.measure.frame import MEAN, POOLED
from anomia.probes import FORMATS, SAID, short
from anomia.report.figures.cases import Case, Drawn
from anomia.report.figures.ladder import KIND_SCALE
from anomia.report.figures.parts import (
    INTERVALS,
    LANGUAGE,
    ONE_SCOPE,
    ChartRow,
    beside,
    compared,
    filtered,
    listed,
    measured,
    note,
    panels,
    percent_axis,
    place,
    rows_axis,
    settled,
    starred,
    tooltip,
)

RUNGS = tuple(dict.fromkeys((*SAID, *FORMATS)))
EACH = f"{LANGUAGE} == '{POOLED}' && datum.scope != '{POOLED}'"


def draw_drops(found: Sequence[Case]) -> Drawn | None:
    """Raw drops of the generated forms and of choice: the mean over languages, with each language as a tick."""
    rows = settled([row for number, case in enumerate(found) for row in _drops(case, number)])
    if not rows:
        return None
    y = rows_axis("rung")
    kind = alt.Color(field="rung", type="nominal", scale=KIND_SCALE, legend=None)
    tips = tooltip(case="arm", where="language", rung="form", shown="drop (points)", n="items")
    axis = percent_axis("drop of accuracy, base − arm (points)")
    bars = (
        alt.Chart()
        .transform_filter(ONE_SCOPE)
        .mark_bar(height={"band": 0.55})
        .encode(x=axis, y=y, color=kind, tooltip=tips)
    )
    whiskers = (
        alt.Chart()
        .transform_filter(ONE_SCOPE)
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X(field="low", type="quantitative"), x2=alt.X2(field="high"), y=y)
    )
    ticks = (
        alt.Chart()
        .transform_filter(EACH)
        .mark_tick(thickness=2, size=26, opacity=0.8)
        .encode(x=alt.X(field="value", type="quantitative"), y=y, tooltip=tips)
    )
    layers = [bars, ticks, whiskers, beside("note", y, ONE_SCOPE)]
    chart = filtered(panels(layers, rows, height=alt.Step(30)), found)
    several = any(len(case.languages) > 1 for case in found)
    over = "Bars are means over languages, ticks single languages" if several else "Bars are drops"
    return Drawn(
        name="figure2",
        title=f"The drop in {', '.join(map(short, RUNGS[:-1]))} and {short(RUNGS[-1])}",
        caption=(
            f"{compared(found)}. Drop = accuracy of base − of the arm on the same items. {over}. {INTERVALS}; "
            f"n is the number of items.{starred(rows)}"
        ),
        alt=_alt(found, rows),
        chart=chart,
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _drops(case: Case, number: int) -> list[ChartRow]:
    several = len(case.languages) > 1
    rows = []
    for order, rung in enumerate(RUNGS):
        for scope in (POOLED, *(case.languages if several else ())):
            taken = MEAN if several and scope == POOLED else scope
            estimate = case.figures.get((case.arm, measures.drop(rung), taken))
            if estimate is None:
                continue
            fields = place(case, number, scope) | {"rung": short(rung), "rung_order": order}
            if taken == MEAN:
                fields["where"] = f"mean of {len(case.languages)} languages"
            row = measured(estimate, **fields)
            rows.append(row | {"note": note(row["shown"], row["n"])})
    return rows


def _alt(found: Sequence[Case], rows: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [row for row in rows if row["case"] == case.label and row["scope"] == POOLED]
        lines.append(f"{case.label}: " + ", ".join(f"{row['rung']} {row['shown']}" for row in mine))
    return f"Bars of the drop in points with intervals. {listed(lines)}."
