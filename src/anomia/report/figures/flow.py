"""From base's four states to the arm's: how many items move where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import altair as alt
import polars as pl

from anomia.measure.frame import POOLED
from anomia.report.figures.cases import Case, Drawn, scopes
from anomia.report.figures.parts import (
    ONE_SCOPE,
    ChartRow,
    compared,
    filtered,
    listed,
    panels,
    place,
    signed,
    tooltip,
)
from anomia.report.figures.style import COLORS

# The states of an item in a model; for items that base gets right in both formats, the arm's states are the fates.
STATES = ("both", "choice only", "open only", "neither")
STATE_SCALE = alt.Scale(
    domain=list(STATES), range=[COLORS[fate] for fate in ("kept", "choice_only", "open_only", "lost")]
)
# Gap between the states on one side, and width of their bars, as fractions of the plot.
SPACE, BAR = 0.05, 0.022
HEIGHT = 260
STEPS = 24
SIDES: tuple[tuple[str, float, Literal["left", "right"], int], ...] = (
    ("base", 0.0, "right", -8),
    ("arm", 1.0 - BAR, "left", 8),
)
NARROWEST_LABEL = 0.005


def draw_flow(found: Sequence[Case]) -> Drawn | None:
    """Items by their state in base, on the left, and in the arm, on the right."""
    rows = [row for number, case in enumerate(found) for row in _flows(case, number)]
    if not rows:
        return None
    color = alt.Color(field="state", type="nominal", scale=STATE_SCALE, legend=None)
    tips = tooltip(
        case="arm",
        where="language",
        before="base answers",
        state="the arm answers",
        count="items",
        share="share",
    )
    x = alt.X(field="t", type="quantitative", scale=alt.Scale(domain=[0, 1], nice=False), axis=None)
    height = alt.Scale(domain=[0, 1 + SPACE * (len(STATES) - 1)], reverse=True, nice=False)
    y = alt.Y(field="low", type="quantitative", scale=height, axis=None)
    ribbons = (
        alt.Chart()
        .transform_filter(ONE_SCOPE)
        .transform_filter("datum.kind == 'flow'")
        .transform_calculate(step=f"sequence(0, {STEPS + 1})")
        .transform_flatten(["step"])
        .transform_calculate(part=f"datum.step / {STEPS}")
        .transform_calculate(eased="datum.part * datum.part * (3 - 2 * datum.part)")
        .transform_calculate(
            t=f"{BAR} + datum.part * {1 - 2 * BAR}",
            low="datum.left + datum.eased * (datum.right - datum.left)",
        )
        .transform_calculate(high="datum.low + datum.size")
        .mark_area(strokeWidth=0)
        .encode(x=x, y=y, y2=alt.Y2(field="high"), color=color, detail=alt.Detail(field="flow", type="nominal"),
            opacity=alt.condition("datum.before == 'both'", alt.value(0.75), alt.value(0.25)), tooltip=tips)
    )  # fmt: skip
    bars, labels = [], []
    for side, start, align, dx in SIDES:
        mine = f"datum.kind == '{side}'"
        told_bar = tooltip(case="model", where="language", state="answers", count="items", share="share")
        at = alt.Chart().transform_filter(ONE_SCOPE).transform_filter(mine)
        bars.append(
            at.mark_rect(strokeWidth=0).encode(
                x=alt.datum(start), x2=alt.datum(start + BAR), y=y, y2=alt.Y2(field="high"),
                color=color, tooltip=told_bar,
            )
        )  # fmt: skip
        labels.append(
            at.transform_filter("datum.named").mark_text(align=align, dx=dx, baseline="middle").encode(
                x=alt.value(0 if side == "base" else "width"), y=alt.Y(field="middle", type="quantitative"),
                text=alt.Text(field="label", type="nominal"),
            )
        )  # fmt: skip
    head = (
        alt.Chart()
        .transform_filter(ONE_SCOPE)
        .transform_filter("datum.kind == 'head'")
        .mark_text(align="left", fontSize=11)
        .encode(x=alt.value(0), y=alt.value(-7), text=alt.Text(field="label", type="nominal"))
    )
    chart = panels([ribbons, *bars, *labels, head], rows, height=HEIGHT)
    return Drawn(
        name="fates_flow",
        title="From base to arm: which answers survive",
        caption=(
            f"{compared(found)}. Every item by what base answers (left) and what the arm answers (right): both in "
            "open and in choice, choice only, open only, or neither. The width of a band is the number of items. "
            "What leaves base's band “both”, in full color, are the fates. Counts of items; the table of fates has "
            "the shares, with intervals."
        ),
        alt=_alt(found, rows),
        chart=filtered(chart, found),
        table=pl.DataFrame(
            [
                {key: row[key] for key in ("case", "scope", "before", "state", "count", "n")}
                for row in rows if row["kind"] == "flow"
            ]
        ),
    )  # fmt: skip


def _flows(case: Case, number: int) -> list[ChartRow]:
    found: dict[str, dict[str, list[int]]] = {}
    for row in case.run.results.diagnosis.transitions:
        if (row.arm, row.options) == (case.arm, "choice"):
            counts = [row.both, row.choice_only, row.open_only, row.neither]
            found.setdefault(row.scope, {})[row.before.replace("_", " ")] = counts
    rows: list[ChartRow] = []
    for scope in dict.fromkeys([POOLED, *scopes(case)]):
        table = [found.get(scope, {}).get(state, [0] * len(STATES)) for state in STATES]
        if sum(map(sum, table)):
            rows += _laid_out(table, place(case, number, scope))
    return rows


def _laid_out(counts: Sequence[Sequence[int]], fields: ChartRow) -> list[ChartRow]:
    """Bands and bars of one plot, in shares of all items, from the top. counts: [base's state][arm's state]."""
    n = sum(map(sum, counts))
    sizes = {
        "base": [sum(row) for row in counts],
        "arm": [sum(row[place_] for row in counts) for place_ in range(len(STATES))],
    }
    rows: list[ChartRow] = []
    tops: dict[str, list[float]] = {}
    for side, totals in sizes.items():
        top, tops[side] = 0.0, []
        for state, total in zip(STATES, totals, strict=True):
            tops[side].append(top)
            size = total / n
            shown = f"{signed(100 * size)} %"
            rows.append(
                {
                    **fields, "kind": side, "before": "", "state": state, "count": total, "n": n, "share": shown,
                    "low": top, "high": top + size, "middle": top + size / 2,
                    "label": f"{state} {total:,}", "named": size > NARROWEST_LABEL,
                }
            )  # fmt: skip
            top += size + SPACE
    rows.append({**fields, "kind": "head", "n": n, "label": f"base → arm · n {n:,}"})
    left, right_ = list(tops["base"]), list(tops["arm"])
    for i, before in enumerate(STATES):
        for j, after in enumerate(STATES):
            if counts[i][j]:
                size = counts[i][j] / n
                rows.append(
                    {
                        **fields, "kind": "flow", "flow": f"{i}-{j}", "before": before, "state": after,
                        "count": counts[i][j], "n": n, "share": f"{signed(100 * size)} %",
                        "left": left[i], "right": right_[j], "size": size,
                    }
                )  # fmt: skip
                left[i] += size
                right_[j] += size
    return rows


def _alt(found: Sequence[Case], rows: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [r for r in rows if (r["case"], r["scope"], r["kind"]) == (case.label, POOLED, "flow")]
        flows = ", ".join(f"{row['before']} to {row['state']} {row['count']}" for row in mine)
        lines.append(f"{case.label}, {mine[0]['n']} items: {flows}" if mine else case.label)
    return f"Bands from base's states to the arm's. {listed(lines)}."
