"""Ranks of gold's token before and after, by fate (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from anomia.measure.figures import RankRow
from anomia.measure.frame import POOLED
from anomia.report.figures.cases import Case, Drawn, scopes
from anomia.report.figures.parts import (
    FATE_WORDS,
    ONE_SCOPE,
    ChartRow,
    beside,
    compared,
    dots,
    filtered,
    listed,
    note,
    panels,
    place,
    rows_axis,
    tooltip,
)
from anomia.report.figures.style import COLORS, GREY

GROUPS: dict[str, str] = FATE_WORDS | {"base_fails": "base fails", "all": "all items"}
GROUP_SCALE = alt.Scale(
    domain=list(GROUPS.values()), range=[COLORS.get(name, GREY) for name in GROUPS]
)  # fmt: skip
PLACES = {"gold": "first token", "gold_distinct": "first token of its own"}
CONTROLS = {"gold": "control", "gold_distinct": "control_distinct"}
NUDGE = 7


def draw_ranks(found: Sequence[Case]) -> Drawn | None:
    """Median ranks with their intervals, base against arm, with the control answer's in the arm."""
    rows = [row for number, case in enumerate(found) for row in _ranks(case, number)]
    if not rows:
        return None
    y = rows_axis("group")
    axis = alt.Axis(format=",", values=[step * 10**power for power in range(7) for step in (1, 3)])
    title = "rank of the answer's token (1: the likeliest)"
    domain = [0.9, 1.3 * max(row["highest"] for row in rows)]

    def x(field: str) -> alt.X:
        scale = alt.Scale(type="log", domain=domain, nice=False)
        return alt.X(field=field, type="quantitative", title=title, scale=scale, axis=axis)

    color = alt.Color(field="group", type="nominal", scale=GROUP_SCALE, legend=None)
    tips = tooltip(
        case="arm", place="token", where="language", group="items", before="rank in base", after="rank in arm",
        after_low="arm, from", after_high="arm, to", control="wrong option in arm",
        within_10="within 10", n="items",
    )  # fmt: skip
    grey = alt.value(GREY)
    layers = [
        *dots(x("before"), y, ONE_SCOPE, low="before_low", high="before_high", color=color, tips=tips,
              filled=False, nudge=-NUDGE),
        *dots(x("after"), y, ONE_SCOPE, low="after_low", high="after_high", color=color, tips=tips),
        *dots(x("control"), y, ONE_SCOPE, "isValid(datum.control)", low="control_low", high="control_high",
              color=grey, tips=tips, shape="diamond", filled=False, nudge=NUDGE, size=45, width=1),
        beside("note", y, ONE_SCOPE),
    ]  # fmt: skip
    chart = panels(layers, rows, height=alt.Step(34), column="panel")
    return Drawn(
        name="figure3",
        title="The answer's rank before and after",
        caption=(
            f"{compared(found)}. Median rank (1 + tokens with a larger logit, ties share the middle) of gold's "
            "token after the open prompt, by fate: ○ base, ● arm, ◊ a wrong option in the arm. Lines are 95 % "
            "intervals of the median, not given where there are too few items; n is the number of items. Where "
            "options share the first token it misleads, so the first token that only gold has is shown as well."
        ),
        alt=_alt(found, rows),
        chart=filtered(chart, found),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _ranks(case: Case, number: int) -> list[ChartRow]:
    known = {
        (row.place, row.when, row.group, row.scope): row
        for row in case.run.results.diagnosis.ranks
        if row.arm == case.arm
    }
    rows = []
    for order, (token, words) in enumerate(PLACES.items()):
        for scope in dict.fromkeys([POOLED, *scopes(case)]):
            for group_order, (group, label) in enumerate(GROUPS.items()):
                before, after = (known.get((token, when, group, scope)) for when in ("before", "after"))
                if before is None or after is None:
                    continue
                control = known.get((CONTROLS[token], "after", group, scope))
                rows.append(
                    {
                        **place(case, number, scope),
                        "panel": f"{case.label} · {words}",
                        "panel_order": len(PLACES) * number + order,
                        "place": words,
                        "group": label,
                        "group_order": group_order,
                        **_spread(before, "before"),
                        **_spread(after, "after"),
                        **_spread(control, "control"),
                        "within_10": f"{100 * after.within_10:.0f} %",
                        "n": after.n,
                        "note": note(f"{rank(before.median)} → {rank(after.median)}", after.n),
                        "highest": max(_highest(row) for row in (before, after, control) if row),
                    }
                )
    return rows


def _highest(row: RankRow) -> float:
    return row.median if row.median_interval is None else max(row.median, row.median_interval.high)


def _spread(row: RankRow | None, name: str) -> ChartRow:
    interval = row.median_interval if row else None
    return {
        name: row.median if row else None,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
    }


def rank(value: float) -> str:
    """`3.5`, `17`, `1,204`."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _alt(found: Sequence[Case], rows: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [
            row
            for row in rows
            if (row["case"], row["scope"], row["place"]) == (case.label, POOLED, PLACES["gold"])
        ]
        lines.append(f"{case.label}: " + ", ".join(f"{row['group']} {row['note']}" for row in mine))
    return f"Median ranks of gold's first token, base to arm, by fate. {listed(lines)}."
