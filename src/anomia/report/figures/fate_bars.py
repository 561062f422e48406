"""Dissociation by language (paper, Figure 1) and all four fates (Figure 8)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from anomia.measure import measures
from anomia.measure.fates import FATES, FEWEST_BOTH_CORRECT
from anomia.measure.frame import POOLED
from anomia.measure.rates import Estimate
from anomia.report.figures.cases import Case, Drawn, scopes
from anomia.report.figures.parts import (
    AS_PERCENT,
    EVERY,
    FATE_WORDS,
    INTERVALS,
    SCOPES,
    TOO_FEW,
    ChartRow,
    beside,
    compared,
    dots,
    filtered,
    in_one_panel,
    joined,
    listed,
    measured,
    note,
    panels,
    percent_axis,
    percent_interval,
    place,
    rows_axis,
    settled,
    signed,
    starred,
    tooltip,
)
from anomia.report.figures.style import COLORS, GREY

FATE_SCALE = alt.Scale(domain=[FATE_WORDS[fate] for fate in FATES], range=[COLORS[fate] for fate in FATES])
FATE_LEGEND = alt.Legend(title=None, orient="top", direction="horizontal", symbolType="square", offset=6)
# A number doesn't fit into its part of the bar below this share.
NARROWEST_LABEL = 0.05


def draw_dissociation(found: Sequence[Case]) -> Drawn | None:
    """Share of both-correct items that the arm picks but no longer answers, by language, net, and next to noise."""
    rows = settled([row for number, case in enumerate(found) for row in _rates(case, number)])
    if all(row["value"] is None for row in rows):
        return None
    y = rows_axis("where")
    tips = tooltip(
        case="arm", where="language", shown="dissociation (%)", net_shown="net (%)", null_shown="null arm, net (%)",
        choice_only="choice only", n="both correct",
    )  # fmt: skip
    x = percent_axis("of items right in both formats (%) · bar: dissociation · ● net")
    bars = (
        alt.Chart()
        .transform_filter(SCOPES)
        .mark_bar(color=COLORS["choice_only"], opacity=0.45, height={"band": 0.62})
        .encode(x=x, y=y, tooltip=tips)
    )
    noise = (
        alt.Chart()
        .transform_filter(SCOPES)
        .transform_filter("isValid(datum.null_low)")
        .mark_bar(color=GREY, opacity=0.4, height={"band": 0.95})
        .encode(
            x=alt.X(field="null_low", type="quantitative"), x2=alt.X2(field="null_high"), y=y, tooltip=tips
        )
    )
    net = dots(
        alt.X(field="net", type="quantitative"), y, SCOPES, "isValid(datum.net)", low="net_low", high="net_high",
        color=alt.value(COLORS["choice_only"]), tips=tips,
    )  # fmt: skip
    whiskers = (
        alt.Chart()
        .transform_filter(SCOPES)
        .transform_filter("!isValid(datum.net)")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X(field="low", type="quantitative"), x2=alt.X2("high"), y=y)
    )
    layers = [bars, noise, *net, whiskers, beside("note", y, SCOPES)]
    chart = filtered(panels(layers, in_one_panel(rows)), found)
    shaded = any(row["null_low"] is not None for row in rows)
    return Drawn(
        name="figure1",
        title="Answers that are still picked but no longer given",
        caption=(
            f"{compared(found)}. Bars: dissociation rate = choice only / items that base gets right in both open "
            "and choice (n). Points: the same minus the reverse flow (net), to which noise adds nothing on average. "
            + ("Grey: the net rate of null arms (base under harmless noise). " if shaded else "")
            + f"{INTERVALS}. Languages with fewer than {FEWEST_BOTH_CORRECT} such items get counts and no rate."
            f"{starred(rows)}"
        ),
        alt=_alt(found, rows),
        chart=chart,
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def draw_fates(found: Sequence[Case]) -> Drawn | None:
    """All four fates of the both-correct items, by language."""
    rows = [row for number, case in enumerate(found) for row in _parts(case, number)]
    if not any(row["share"] for row in rows):
        return None
    y = rows_axis("where")
    tips = tooltip(case="arm", where="language", fate="fate", count="items", shown="share", n="both correct")
    color = alt.Color(field="fate", type="nominal", scale=FATE_SCALE, legend=FATE_LEGEND)
    x = alt.X(
        field="from",
        type="quantitative",
        title="share of the items that base gets right in both formats",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(labelExpr=AS_PERCENT, tickCount=6),
    )
    bars = (
        alt.Chart()
        .transform_filter(SCOPES)
        .mark_bar(height={"band": 0.72}, stroke=None)
        .encode(x=x, x2=alt.X2(field="to"), y=y, color=color, tooltip=tips)
    )
    inside = (
        alt.Chart()
        .transform_filter(SCOPES)
        .transform_filter(f"datum.share >= {NARROWEST_LABEL}")
        .mark_text(color="white", fontWeight="bold", fontSize=12)
        .encode(
            x=alt.X(field="middle", type="quantitative"), y=y, text=alt.Text(field="label", type="nominal")
        )
    )
    layers = [bars, inside, beside("note", y, SCOPES, f"datum.fate == '{FATE_WORDS['kept']}'")]
    chart = filtered(panels(layers, in_one_panel(rows)), found)
    return Drawn(
        name="figure8",
        title="What happened to the items that base gets right in both formats",
        caption=(
            f"{compared(found)}. Kept: still answered and picked; choice only: picked and no longer answered, its "
            "share is the dissociation rate of Figure 1; open only: answered and no longer picked; lost: neither. n "
            f"is the number of items that base gets right in both open and choice; below {FEWEST_BOTH_CORRECT} counts "
            "replace shares. The table of fates has the intervals."
        ),
        alt=_fates_alt(found, rows),
        chart=chart,
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _parts(case: Case, number: int) -> list[ChartRow]:
    rows = []
    counts = {
        row.scope: row.counts
        for row in case.run.results.diagnosis.fates
        if (row.arm, row.options) == (case.arm, "choice")
    }
    for scope in scopes(case):
        if scope not in counts:
            continue
        found = counts[scope]
        n, start = found.both_correct, 0.0
        few = n < FEWEST_BOTH_CORRECT
        few_counts = ", ".join(
            f"{count} {FATE_WORDS[fate]}" for fate, count in zip(FATES, found, strict=True) if count
        )
        for fate, count in zip(FATES, found, strict=True):
            share = None if few else count / n
            rows.append(
                {
                    **place(case, number, scope),
                    "fate": FATE_WORDS[fate],
                    "count": count,
                    "n": n,
                    "share": share,
                    "from": None if share is None else start,
                    "to": None if share is None else start + share,
                    "middle": None if share is None else start + share / 2,
                    "label": "" if share is None else signed(100 * share),
                    "shown": TOO_FEW if share is None else f"{100 * share:.1f} %",
                    "note": f"{TOO_FEW}: {few_counts or 'none'}" if few else f"n {n:,}",
                }
            )
            start += share or 0.0
    return rows


def _fates_alt(found: Sequence[Case], rows: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [row for row in rows if row["case"] == case.label]
        last = mine[-len(FATES) :]
        counts = ", ".join(f"{row['fate']} {row['count']}" for row in last)
        lines.append(
            f"{case.label}, {last[-1]['where']}: {counts} of {last[-1]['n']}" if last else case.label
        )
    return f"Stacked bars of the four fates by language. {listed(lines)}."


def _rates(case: Case, number: int) -> list[ChartRow]:
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
        estimate = case.figures.get((case.arm, measures.dissociation("choice"), scope))
        net = case.figures.get((case.arm, measures.net_dissociation("choice"), scope))
        fields = (
            place(case, number, scope) | {"choice_only": found.choice_only} | _net(net) | _noise(case, scope)
        )
        row = measured(estimate, **fields)
        row["n"] = found.both_correct
        row["note"] = note(row["shown"] if net is None else "net " + row["net_shown"], found.both_correct)
        if estimate is None:
            row["note"] = f"too few: {found.choice_only} of {found.both_correct}"
        rows.append(row)
    return rows


def _net(estimate: Estimate | None) -> ChartRow:
    if estimate is None:
        return {"net": None, "net_low": None, "net_high": None, "net_shown": TOO_FEW}
    return {
        "net": estimate.value,
        "net_low": estimate.low,
        "net_high": estimate.high,
        "net_shown": percent_interval(estimate),
    }


def _noise(case: Case, scope: str) -> ChartRow:
    """The range from the lowest to the highest bound of the null arms' net rates."""
    rates = [case.figures.get((arm, measures.net_dissociation("choice"), scope)) for arm in case.nulls]
    known = [rate for rate in rates if rate is not None]
    return {
        "null_low": min(rate.low for rate in known) if known else None,
        "null_high": max(rate.high for rate in known) if known else None,
        "null_shown": joined("; ", [*map(percent_interval, known)]) if known else "no null arm",
    }


def _alt(found: Sequence[Case], rows: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [row for row in rows if row["case"] == case.label]
        words = ", ".join(
            f"{EVERY if row['scope'] == POOLED else row['where']} {row['note']}" for row in mine
        )
        lines.append(f"{case.label}: {words}")
    return f"Bars of the dissociation rate in per cent, and the net rate with its interval. {listed(lines)}."
