"""Gap and drops against model size (paper, Figure 6)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from anomia.measure import measures
from anomia.measure.frame import POOLED
from anomia.report.figures.cases import Case, Drawn, plain
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

MEASURES = {
    measures.gap("choice"): ("a", "gap"),
    measures.normalized_drop("open"): ("b", "open"),
    measures.normalized_drop("choice"): ("b", "choice"),
    measures.raw_gap("choice"): ("c", "raw gap"),
}
TITLES = {"a": "(a) gap ΔPR (points)", "b": "(b) share lost (%)", "c": "(c) gap in raw points"}
SCALE = alt.Scale(
    domain=["gap", "open", "choice", "raw gap"],
    range=[COLORS[name] for name in ("gap", "open", "choice", "gap")],
)
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z0-9])", re.IGNORECASE)
HEIGHT = 170
FEWEST_SIZES = 2
# Padding factor beyond the smallest and the largest size, for the names above their points.
ROOM = 1.7


def draw_sizes(found: Sequence[Case]) -> Drawn | None:
    """ΔPR, the two normalized drops in it, and the raw gap, against base's number of parameters."""
    rows = [row for case in found for row in _measures(case)]
    sizes: dict[str, set[float]] = {}
    for row in rows:
        sizes.setdefault(row["case"], set()).add(row["size"])
    rows = settled([row for row in rows if len(sizes[row["case"]]) >= FEWEST_SIZES])
    if not rows:
        return None
    drawn = {row["label"] for row in rows}
    alone = [case.label for case in found if case.label not in drawn]
    beside = f" Not shown, since there is no other size of the model: {listed(alone)}." if alone else ""
    parts = [_panel([row for row in rows if row["panel"] == panel], title) for panel, title in TITLES.items()]
    return Drawn(
        name="figure6",
        title="Across sizes",
        caption=(
            "By the number of parameters of base, pooled over languages: (a) ΔPR = normalized drop of open − "
            "normalized drop of choice; (b) the two drops: the share of what base had above the floor that the "
            f"arm lost; (c) points that open lost − points that choice lost. {INTERVALS}; n is the number of "
            f"items.{starred(rows)}{beside}"
        ),
        alt="Gap and drops against model size. "
        + listed([f"{row['model']} {row['measure']} {row['shown']}" for row in rows], most=18)
        + ".",
        chart=stacked(parts),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def parameters(case: Case) -> float | None:
    """Base's number of parameters: as counted in its run, else from its name (`Qwen3-0.6B`)."""
    counted = case.run.results.study.get("provenance", {}).get("parameters")
    if isinstance(counted, int | float) and counted > 0:
        return float(counted)
    named = _SIZE.findall(re.sub(r"[-_/]", " ", case.base))
    if not named:
        return None
    number, unit = named[-1]
    return float(number) * (1e9 if unit.lower() == "b" else 1e6) or None


def size_text(count: float) -> str:
    """`0.6B`, `270M`."""
    return f"{count / 1e9:.3g}B" if count >= 1e9 else f"{count / 1e6:.3g}M"


def _measures(case: Case) -> list[ChartRow]:
    size = parameters(case)
    if size is None:
        return []
    family = plain(_SIZE.sub("", case.base).strip("-_ ") or case.base)
    series = plain(f"{family} · {case.data} · {case.arm}")
    rows = []
    for measure, (panel, name) in MEASURES.items():
        estimate = case.figures.get((case.arm, measure, POOLED))
        if estimate is not None:
            fields = {
                "case": series,
                "label": case.label,
                "model": case.base,
                "panel": panel,
                "measure": name,
            }
            row = measured(estimate, **fields, size=size, size_text=size_text(size))
            rows.append(row | {"note": note(case.base, estimate.n)})
    return rows


def _panel(rows: Sequence[ChartRow], title: str) -> Any:
    orders = {name: order for order, name in enumerate(dict.fromkeys(row["case"] for row in rows))}
    largest = {name: max(r["size"] for r in rows if r["case"] == name) for name in orders}
    sizes = sorted({row["size"] for row in rows})
    rows = [
        row | {"case_order": orders[row["case"]], "last": row["size"] == largest[row["case"]]} for row in rows
    ]
    color = alt.Color(field="measure", type="nominal", scale=SCALE, legend=None)
    tips = tooltip(
        case="arm", model="model", size_text="parameters", measure="measure", shown="value (%)", n="items"
    )
    x = alt.X(
        field="size",
        type="quantitative",
        title="parameters of base",
        scale=alt.Scale(type="log", domain=[sizes[0] / ROOM, sizes[-1] * ROOM], nice=False),
        axis=alt.Axis(
            format="~s",
            values=sizes,
            grid=False,
            labelExpr="replace(datum.label, 'G', 'B')",
            labelOverlap=True,
        ),
    )
    y = alt.Y(
        field="value",
        type="quantitative",
        title=title,
        axis=alt.Axis(labelExpr=AS_PERCENT, tickCount=5, grid=True),
    )
    line = alt.Chart().mark_line(strokeWidth=1.5, opacity=0.6)
    layers = [
        alt.Chart().mark_rule(strokeDash=[4, 3]).encode(y=alt.datum(0.0)),
        line.encode(x=x, y=y, color=color, detail=alt.Detail(field="measure", type="nominal")),
        alt.Chart()
        .mark_rule(strokeWidth=2, opacity=0.75)
        .encode(x=x, y=alt.Y(field="low", type="quantitative"), y2=alt.Y2(field="high"), color=color),
        alt.Chart().mark_point(size=MARK, filled=True, opacity=1).encode(x=x, y=y, color=color, tooltip=tips),
        alt.Chart()
        .transform_filter("datum.last")
        .mark_text(align="left", dx=9, fontWeight="bold")
        .encode(x=x, y=y, color=color, text=alt.Text(field="measure", type="nominal")),
    ]
    if title == TITLES["a"]:
        layers.append(
            alt.Chart()
            .mark_text(fontSize=11, baseline="bottom", dy=-6)
            .encode(
                x=x, y=alt.Y(field="high", type="quantitative"), text=alt.Text(field="note", type="nominal")
            )
        )
    return panels(layers, rows, height=HEIGHT)
