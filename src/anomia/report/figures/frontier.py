"""Open and choice against what compression saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from anomia.compress.spec import is_null
from anomia.probes import FORMATS
from anomia.report.figures.cases import LONGEST_LABEL, Case, Drawn, NamedRun, plain
from anomia.report.figures.parts import (
    AS_PERCENT,
    INTERVALS,
    ChartRow,
    listed,
    measured,
    note,
    panels,
    settled,
    stacked,
    starred,
    tooltip,
)
from anomia.report.figures.style import COLORS, MARK

HEIGHT = 210
PLOT_WIDTH = 330
LINE = 15
# Points with equal savings are drawn this many pixels apart, so that their intervals can be told apart.
DODGE = 8
# Fewer different savings are left to the table, because they make no curve.
FEWEST_PLACES = 2


class CostAxis(NamedTuple):
    """The horizontal axis. field: of a `FrontierRow`. unit: divides it. best: suffix of the frontier's field."""

    field: str
    title: str
    unit: float
    best: str


AXES = (
    CostAxis("sparsity", "measured sparsity of the pruned matrices (%)", 0.01, "frontier"),
    CostAxis("size_bytes", "size on disk (GB)", 1e9, "size_frontier"),
)


def draw_frontier(found: Sequence[Case]) -> Drawn | None:
    """Accuracy of choice and of open over all arms, against measured sparsity and size on disk."""
    runs = list({id(case.run.results): case.run for case in found}.values())
    rows: list[ChartRow] = []
    parts = []
    for axis in AXES:
        mine = settled(
            [row for number, run in enumerate(runs) for row in _rows(run, number, axis, len(runs) > 1)]
        )
        if len({row["saved"] for row in mine}) < FEWEST_PLACES:
            continue
        x_range = _range(mine)
        for probe in reversed(FORMATS):
            shown = [row for row in mine if row["probe"] == probe]
            parts.append(_panel(_labelled(shown, x_range), probe, axis, x_range))
        rows += mine
    if not rows:
        return None
    by = " and by ".join(axis.title for axis in AXES if any(row["by"] == axis.field for row in rows))
    return Drawn(
        name="frontier",
        title="Accuracy against what compression saves",
        caption=(
            f"Every arm by {by}, pooled over languages. Filled points, joined by the line, are on the frontier: "
            "no arm saves as much and is better, or is as good and saves more. Arms that save the same are drawn "
            f"side by side. {INTERVALS}; n is the number of items.{starred(rows)}"
        ),
        alt=f"Accuracy by {by}. " + listed([_words(row) for row in rows], most=12) + ".",
        chart=stacked(parts),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _rows(run: NamedRun, number: int, axis: CostAxis, several: bool) -> list[ChartRow]:
    rows = []
    for point in run.results.frontier:
        saved = getattr(point, axis.field)
        if saved is None or is_null(point.arm):
            continue
        for probe in FORMATS:
            fields = {
                "case": plain(run.name) if several else "",
                "case_order": number,
                "arm": plain(point.arm),
                "probe": probe,
                "by": axis.field,
                "saved": saved / axis.unit,
                "exact": f"{saved / axis.unit:.3g}",
                "best": bool(getattr(point, f"{probe}_{axis.best}")),
            }
            row = measured(getattr(point, probe), **fields)
            row["note"] = note(f"{plain(point.arm, LONGEST_LABEL)} · " + row["shown"], row["n"])
            rows.append(row)
    return rows


def _range(rows: Sequence[ChartRow]) -> tuple[float, float]:
    saved = [row["saved"] for row in rows]
    width = max(saved) - min(saved) or 1.0
    return min(saved) - 0.06 * width, max(saved) + 0.18 * width


def _labelled(rows: Sequence[ChartRow], x_range: tuple[float, float]) -> list[ChartRow]:
    """Rows with the positions of their points, next to others with equal savings, and of their labels at the right.

    Labels of one panel are spread downwards from the top without overlap, then moved up into the plot.
    """
    made: list[ChartRow] = []
    pixel = (x_range[1] - x_range[0]) / PLOT_WIDTH
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = sorted((row for row in rows if row["case"] == case), key=lambda row: -row["value"])
        height = _height(mine)
        tops: list[float] = []
        for row in mine:
            tops.append(max((1 - row["value"]) * height, tops[-1] + LINE if tops else 0.0))
        limit = float(height)
        for place in reversed(range(len(tops))):
            tops[place] = min(tops[place], limit)
            limit = tops[place] - LINE
        drawn: list[float] = []
        for row, top in zip(mine, tops, strict=True):
            at = row["saved"]
            while any(abs(at - other) < DODGE * pixel * 0.99 for other in drawn):
                at += DODGE * pixel
            drawn.append(at)
            made.append(row | {"at": at, "end": x_range[1], "label_at": 1 - top / height})
    return made


def _height(rows: Sequence[ChartRow]) -> int:
    cases = [row["case"] for row in rows]
    return max(HEIGHT, LINE * max(map(cases.count, cases)))


def _panel(rows: Sequence[ChartRow], probe: str, axis: CostAxis, x_range: tuple[float, float]) -> Any:
    color = alt.value(COLORS[probe])
    tips = tooltip(arm="arm", case="run", shown=f"{probe} (%)", exact=axis.title, n="items")
    x = alt.X(
        field="at",
        type="quantitative",
        title=axis.title,
        scale=alt.Scale(domain=list(x_range), nice=False),
        axis=alt.Axis(grid=False, tickCount=6),
    )
    y = alt.Y(
        field="value",
        type="quantitative",
        title=f"{probe} accuracy (%)",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(labelExpr=AS_PERCENT, tickCount=6),
    )
    label_y = alt.Y(field="label_at", type="quantitative")
    layers = [
        alt.Chart()
        .mark_rule(opacity=0.3, strokeWidth=1)
        .encode(x=x, x2=alt.X2(field="end"), y=y, y2=alt.Y2(field="label_at")),
        alt.Chart()
        .transform_filter("datum.best")
        .mark_line(strokeWidth=1.5, opacity=0.6)
        .encode(x=x, y=y, color=color),
        alt.Chart()
        .mark_rule(strokeWidth=2, opacity=0.6)
        .encode(x=x, y=alt.Y(field="low", type="quantitative"), y2=alt.Y2(field="high"), color=color),
        alt.Chart()
        .mark_text(align="left", dx=6)
        .encode(x=alt.value("width"), y=label_y, text=alt.Text(field="note", type="nominal")),
    ]
    for filled, condition in ((True, "datum.best"), (False, "!datum.best")):
        mark = alt.Chart().mark_point(size=MARK, filled=filled, opacity=1, strokeWidth=2)
        layers.append(mark.transform_filter(condition).encode(x=x, y=y, color=color, tooltip=tips))
    return panels(layers, rows, height=_height(rows), width=PLOT_WIDTH)


def _words(row: ChartRow) -> str:
    return f"{row['arm']} at {row['exact']}: {row['probe']} {row['shown']} %"
