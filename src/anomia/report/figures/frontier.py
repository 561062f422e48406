"""Open and choice against what compression saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
import polars as pl

from anomia.measure.figures import FrontierRow
from anomia.report.figures.cases import LONGEST_LABEL, Case, Drawn, Run, plain
from anomia.report.figures.parts import (
    AS_PERCENT,
    INTERVALS,
    Row,
    listed,
    measured,
    panels,
    stacked,
    starred,
    tooltip,
)
from anomia.report.figures.style import COLORS, MARK, WIDTH

HEIGHT = 210
LINE = 13
# A label is set to the left of its point where it would run out of the plot on the right.
CHARACTER = 6.2
PROBES = ("open", "choice")
SIDES: tuple[tuple[Literal["left", "right"], int, str], ...] = (
    ("left", 9, "!datum.left"),
    ("right", -9, "datum.left"),
)
SCALE = alt.Scale(domain=list(PROBES), range=[COLORS[probe] for probe in PROBES])


class Axis(NamedTuple):
    """What arms are put in order by. field: of a `FrontierRow`. unit: divides it. better: arms that save more."""

    field: str
    title: str
    unit: float
    reach: float


def draw_frontier(found: Sequence[Case]) -> Drawn | None:
    """Accuracy of open and of choice over all arms, against measured sparsity, or size on disk where that is known."""
    runs = list({id(case.run.results): case.run for case in found}.values())
    points = [(run, row) for run in runs for row in run.results.frontier]
    if not points:
        return None
    axis = _axis([row for _, row in points])
    rows = [row for number, run in enumerate(runs) for row in _rows(run, number, axis, several=len(runs) > 1)]
    if not rows:
        return None
    x_range = _range(rows)
    parts = []
    for probe in reversed(PROBES):
        mine = [row for row in rows if row["probe"] == probe]
        parts.append(_panel(_labelled(mine, x_range), probe, axis, x_range))
    return Drawn(
        name="frontier",
        title="Accuracy against what compression saves",
        caption=(
            f"Every arm by {axis.title}, pooled over languages. Filled points, joined by the line, are on the "
            "frontier: no arm saves as much and is better, or is as good and saves more. "
            f"{INTERVALS}.{starred(rows)}"
        ),
        alt=f"Accuracy against {axis.title}. " + listed([_words(row) for row in rows], most=12) + ".",
        chart=stacked(parts),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _axis(points: Sequence[FrontierRow]) -> Axis:
    sizes = [getattr(point, "size", None) for point in points]
    if all(size is not None for size in sizes):
        return Axis("size", "size on disk (GB)", 1e9, 1.0)
    return Axis("sparsity", "measured sparsity of the pruned matrices (%)", 0.01, 100.0)


def _rows(run: Run, number: int, axis: Axis, *, several: bool) -> list[Row]:
    rows = []
    for point in run.results.frontier:
        saved = getattr(point, axis.field)
        if saved is None:
            continue
        for probe in PROBES:
            estimate = getattr(point, probe)
            fields = {
                "case": plain(run.name) if several else "",
                "case_order": number,
                "arm": plain(point.arm),
                "label": plain(point.arm, LONGEST_LABEL),
                "probe": probe,
                "saved": saved / axis.unit,
                "best": getattr(point, f"{probe}_frontier"),
            }
            rows.append(measured(estimate, **fields))
    return rows


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    saved = [row["saved"] for row in rows]
    room = (max(saved) - min(saved) or 1.0) * 0.06
    return min(saved) - room, max(saved) + room


def _labelled(rows: Sequence[Row], x_range: tuple[float, float]) -> list[Row]:
    """Rows with the place of their labels: beside their point, pushed down where labels would meet."""
    low, high = x_range
    made: list[Row] = []
    taken: dict[str, list[tuple[float, float, float]]] = {}
    for row in sorted(rows, key=lambda row: (row["case"], -row["value"])):
        at = (row["saved"] - low) / (high - low) * WIDTH
        length = CHARACTER * len(row["label"]) + 12
        left = at + length > WIDTH + 120
        start, end = (at - length, at) if left else (at, at + length)
        top = (1 - row["value"]) * HEIGHT
        others = taken.setdefault(row["case"], [])
        while True:
            meeting = [y for a, b, y in others if a < end and start < b and abs(y - top) < LINE]
            if not meeting:
                break
            top = max(meeting) + LINE
        others.append((start, end, top))
        made.append(row | {"left": left, "label_at": 1 - top / HEIGHT})
    return made


def _panel(rows: Sequence[Row], probe: str, axis: Axis, x_range: tuple[float, float]) -> Any:
    color = alt.value(COLORS[probe])
    told = tooltip(arm="arm", case="run", shown=f"{probe} (%)", saved=axis.title, n="items")
    x = alt.X(
        field="saved",
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
    layers = [
        alt.Chart().transform_filter("datum.best").mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, color=color),
        alt.Chart().mark_rule(strokeWidth=2, opacity=0.6).encode(
            x=x, y=alt.Y(field="low", type="quantitative"), y2=alt.Y2(field="high"), color=color
        ),
    ]  # fmt: skip
    for filled, condition in ((True, "datum.best"), (False, "!datum.best")):
        mark = (
            alt.Chart()
            .transform_filter(condition)
            .mark_point(size=MARK, filled=filled, opacity=1, strokeWidth=2)
        )
        layers.append(mark.encode(x=x, y=y, color=color, tooltip=told))
    for align, dx, condition in SIDES:
        text = alt.Chart().transform_filter(condition).mark_text(align=align, dx=dx, fontSize=11)
        at = alt.Y(field="label_at", type="quantitative")
        layers.append(text.encode(x=x, y=at, text=alt.Text(field="label", type="nominal")))
    return panels(layers, rows, height=HEIGHT)


def _words(row: Row) -> str:
    return f"{row['arm']} at {row['saved']:.3g}: {row['probe']} {row['shown']} %"
