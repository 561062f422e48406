"""The same figures across models and data sets (paper, Figure 5) and across calibration sets (Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from anomia.measure import measures
from anomia.measure.frame import POOLED
from anomia.probes import FORMATS
from anomia.report.figures.cases import Case, Drawn, same_but_calibration
from anomia.report.figures.parts import (
    INTERVALS,
    ChartRow,
    beside,
    dots,
    interval,
    listed,
    measured,
    note,
    panels,
    percent_axis,
    percent_interval,
    rows_axis,
    settled,
    signed,
    stacked,
    starred,
    tooltip,
)
from anomia.report.figures.style import COLORS

RATE = measures.dissociation("choice")
MEASURES = {
    RATE: "(a) dissociation rate (%)",
    measures.gap("choice"): "(b) gap ΔPR (points)",
    measures.raw_gap("choice"): "(c) gap in raw points",
}
BASE_ROW = "base"
NOT_GIVEN = "not given: too few items, or base too weak"


def draw_settings(found: Sequence[Case]) -> Drawn | None:
    """Dissociation rate, gap, and gap in raw points of every arm of every run, pooled over its languages."""
    rows = [
        measured(estimate, **fields) | {"note": note(percent_interval(estimate), estimate.n) if estimate else NOT_GIVEN}
        for number, case in enumerate(found)
        for measure in MEASURES
        for estimate in [case.figures.get((case.arm, measure, POOLED))]
        for fields in [{"case": case.label, "case_order": number, "measure": str(measure)}]
    ]  # fmt: skip
    if all(row["value"] is None for row in rows):
        return None
    rows = settled(rows)
    y = rows_axis("case")
    tips = tooltip(case="setting", shown="value (%)", n="items", passages="passages")
    parts = []
    for measure, title in MEASURES.items():
        mine = [row for row in rows if row["measure"] == measure]
        color = alt.value(COLORS["choice_only"] if measure == RATE else COLORS["gap"])
        layers = [*dots(percent_axis(title), y, color=color, tips=tips), beside("note", y)]
        if measure != RATE:
            layers.insert(0, alt.Chart().mark_rule(strokeDash=[4, 3]).encode(x=alt.datum(0.0)))
        parts.append(panels(layers, mine, column="measure"))
    return Drawn(
        name="figure5",
        title="Across models and data sets",
        caption=(
            "(a) The share of choice only among the items that base gets right in both formats. (b) ΔPR = normalized "
            "drop of open − normalized drop of choice: above 0 open loses a larger share. (c) Points that open loses "
            f"− points that choice loses. All pooled over the languages of each run. {INTERVALS}; n is the number of "
            f"items.{starred(rows)}"
        ),
        alt=_alt(rows),
        chart=stacked(parts),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def draw_calibrations(found: Sequence[Case]) -> Drawn | None:
    """Open and choice with different calibration sets, all else being equal, next to base."""
    groups = enumerate(same_but_calibration(found))
    rows = settled([row for number, group in groups for row in _group(group, number)])
    if not rows:
        return None
    y = rows_axis("where")
    tips = tooltip(case="arm", where="calibration", probe="form", shown="accuracy (%)", n="items")
    color = alt.Color(
        field="probe",
        type="nominal",
        scale=alt.Scale(domain=list(FORMATS), range=[COLORS[name] for name in FORMATS]),
        legend=None,
    )
    span = (
        alt.Chart()
        .transform_filter("datum.probe == 'open'")
        .mark_rule(style="soft", strokeDash=[2, 3])
        .encode(x=alt.X(field="value", type="quantitative"), x2=alt.X2(field="choice"), y=y)
    )
    names = (
        alt.Chart()
        .transform_filter("datum.first")
        .mark_text(dy=-12, fontSize=11)
        .encode(
            x=alt.X(field="value", type="quantitative"), y=y, text=alt.Text(field="probe", type="nominal")
        )
    )
    layers = [
        span,
        *dots(percent_axis("accuracy (%)", domain=(0, 1)), y, color=color, tips=tips),
        names,
        beside("note", y, "datum.probe == 'open'"),
    ]
    return Drawn(
        name="figure7",
        title="Other calibration texts",
        caption=(
            "Accuracy of open and of choice by the text that the pruning was calibrated on, all else being the "
            "same; the number next to each is accuracy of choice − of open, in points. Pooled over languages. "
            f"{INTERVALS}; n is the number of items.{starred(rows)}"
        ),
        alt="Accuracy by calibration text in per cent. "
        + listed(
            [
                f"{row['case']}, {row['where']}: open {row['shown']}, choice − open {row['note']}"
                for row in rows
                if row["probe"] == "open"
            ],
            most=12,
        )
        + ".",
        chart=panels(layers, rows, height=alt.Step(34)),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _group(group: Sequence[tuple[Case, str]], number: int) -> list[ChartRow]:
    first = group[0][0]
    label = first.label if len(group) == 1 else f"{first.base} · {first.data} · {group[0][1]}"
    columns = [(first, "base", BASE_ROW)] + [(case, case.arm, case.calibration or "?") for case, _ in group]
    rows = []
    for order, (case, model, where) in enumerate(columns):
        found = [case.figures.get((model, measures.accuracy(probe), POOLED)) for probe in FORMATS]
        gap = case.figures.get((model, measures.accuracy("choice_minus_open"), POOLED))
        if found[0] is None or found[1] is None or gap is None:
            continue
        for probe, estimate in zip(FORMATS, found, strict=True):
            fields = {
                "case": label,
                "case_order": number,
                "where": where,
                "where_order": order,
                "probe": probe,
            }
            row = measured(estimate, **fields, choice=found[1].value, first=order == 0)
            row["note"] = note(f"{signed(100 * gap.value, 1)} " + interval(gap), gap.n)
            rows.append(row)
    return rows


def _alt(rows: Sequence[ChartRow]) -> str:
    lines = []
    for label in dict.fromkeys(row["case"] for row in rows):
        rate, gap, raw = (row["shown"] for row in rows if row["case"] == label)
        lines.append(f"{label}: dissociation {rate}, gap {gap}, in raw points {raw}")
    return (
        "Dissociation rate in per cent and gap in points with intervals, one row per setting. "
        f"{listed(lines, most=8)}."
    )
