"""What one example in the prompt gives back (paper, Table 1)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from anomia.measure import measures
from anomia.probes import ONE_SHOT, ZERO_SHOT, short
from anomia.report.figures.cases import Case, Drawn, scopes
from anomia.report.figures.parts import (
    INTERVALS,
    SCOPES,
    ChartRow,
    beside,
    compared,
    dots,
    filtered,
    in_one_panel,
    listed,
    measured,
    note,
    panels,
    percent_axis,
    place,
    rows_axis,
    settled,
    signed,
    starred,
    tooltip,
)
from anomia.report.figures.style import COLORS

SHOTS = {name: short(name) for name in (ZERO_SHOT, ONE_SHOT)}
ZERO, ONE = SHOTS.values()
NUDGE = 4


def draw_shots(found: Sequence[Case]) -> Drawn | None:
    """Open accuracy of base and arm at 0 and 1 shot, and the prune gaps, by language."""
    rows = settled([row for number, case in enumerate(found) for row in _gaps(case, number)])
    if not rows:
        return None
    y = rows_axis("where")
    color = alt.value(COLORS["open"])
    tips = tooltip(
        case="arm", where="language", shots="prompt",
        shown="prune gap (points)", accuracies="base → arm (%)", n="items",
    )  # fmt: skip
    x = percent_axis(f"prune gap (points) · ○ {ZERO} · ● {ONE}")
    layers = [
        alt.Chart().mark_rule(strokeDash=[4, 3]).encode(x=alt.datum(0.0)),
        *dots(x, y, SCOPES, f"datum.shots == '{ZERO}'", color=color, tips=tips, filled=False, nudge=-NUDGE),
        *dots(x, y, SCOPES, f"datum.shots == '{ONE}'", color=color, tips=tips, nudge=NUDGE),
        beside("note", y, SCOPES, f"datum.shots == '{ONE}'"),
    ]
    return Drawn(
        name="table1",
        title="The prune gap without and with one example",
        caption=(
            f"{compared(found)}. Open accuracy without and with one solved example in the prompt, and the prune "
            "gap: base − arm, in points. The 0-shot column has the same prompt form and the same shorter passage "
            f"as the 1-shot one. {INTERVALS}; n is the number of items.{starred(rows)}"
        ),
        alt=_alt(found, rows),
        chart=filtered(panels(layers, in_one_panel(rows)), found),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _gaps(case: Case, number: int) -> list[ChartRow]:
    rows = []
    for scope in scopes(case):
        drops = {shots: case.figures.get((case.arm, measures.drop(shots), scope)) for shots in SHOTS}
        zero, one = drops.values()
        if zero is None or one is None:
            continue
        change = note(f"{signed(100 * zero.value)} → {signed(100 * one.value)}", one.n)
        for (shots, words), drop in zip(SHOTS.items(), (zero, one), strict=True):
            base, arm = case.accuracies(shots, scope)
            fields = {
                "shots": words,
                "base": base.value if base else None,
                "arm": arm.value if arm else None,
                "accuracies": f"{signed(100 * base.value)} → {signed(100 * arm.value)}"
                if base and arm
                else "–",
                "note": change,
            }
            rows.append(measured(drop, **place(case, number, scope), **fields))
    return rows


def _alt(found: Sequence[Case], rows: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [row for row in rows if (row["case"], row["shots"]) == (case.label, ONE)]
        lines.append(f"{case.label}: " + ", ".join(f"{row['where']} {row['note']}" for row in mine))
    return f"Prune gap in points at {ZERO} and at {ONE}, by language. {listed(lines)}."
