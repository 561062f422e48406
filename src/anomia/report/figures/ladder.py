"""The ladder with its controls, and the drops along it (paper, Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from anomia.measure.frame import POOLED
from anomia.probes import BY_NAME, GRADE, LADDER, short
from anomia.report.figures.cases import Case, Drawn, scopes
from anomia.report.figures.parts import (
    INTERVALS,
    ONE_SCOPE,
    ChartRow,
    beside,
    compared,
    dots,
    filtered,
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

KIND_SCALE = alt.Scale(
    domain=["open", "cued", "choice", "control"],
    range=[COLORS[kind] for kind in ("open", "cued", "choice", "control")],
)
NUDGE = 4
NO_MODEL = "no model"


def draw_ladder(found: Sequence[Case]) -> Drawn | None:
    """Accuracy of base and arm for every form of the question, with the controls of choice and of cued."""
    rows = settled([row for number, case in enumerate(found) for row in _rungs(case, number)])
    if not rows:
        return None
    kind = alt.Color(field="kind", type="nominal", scale=KIND_SCALE, legend=None)
    tips = tooltip(case="arm", where="language", rung="form", who="model", shown="accuracy (%)", n="items")
    x, y = percent_axis("accuracy (%) · ○ base · ● arm · ◊ no model", domain=(0, 1)), rows_axis("rung")
    base, arm, none = (f"datum.who == '{who}'" for who in ("base", "arm", NO_MODEL))
    layers = [
        *dots(x, y, ONE_SCOPE, base, color=kind, tips=tips, filled=False, nudge=-NUDGE),
        *dots(x, y, ONE_SCOPE, arm, color=kind, tips=tips, nudge=NUDGE),
        *dots(x, y, ONE_SCOPE, none, color=kind, tips=tips, shape="diamond", filled=False),
        beside("note", y, ONE_SCOPE, "datum.who != 'base'"),
    ]
    chart = filtered(panels(layers, rows), found)
    return Drawn(
        name="ladder",
        title="Accuracy in every form of the question",
        caption=(
            f"{compared(found)}: share of right answers with increasing support, and checks (grey): "
            "candidates without the answer, options without the question, and always picking the option that "
            f"appears in the passage. {INTERVALS}; n is the number of items.{starred(rows)}"
        ),
        alt=_alt(found, rows),
        chart=chart,
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _rungs(case: Case, number: int) -> list[ChartRow]:
    rows = []
    for scope in dict.fromkeys([POOLED, *scopes(case)]):
        for order, rung in enumerate(LADDER):
            before, after = case.accuracies(rung, scope)
            if rung == "string_presence":
                after = None
            if before is None or (after is None and rung != "string_presence"):
                continue
            fields = {
                **place(case, number, scope),
                "rung": short(rung),
                "rung_order": order,
                "kind": (BY_NAME.get(rung) or GRADE[rung]).group,
            }
            last = after or before
            shown = " → ".join(signed(100 * e.value) for e in (before, after) if e)
            change = note(shown, last.n)
            models = {"base": before, "arm": after} if after else {NO_MODEL: before}
            rows += [measured(estimate, **fields, who=who, note=change) for who, estimate in models.items()]
    return rows


def _alt(found: Sequence[Case], rows: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [r for r in rows if r["case"] == case.label and r["scope"] == POOLED and r["who"] != "base"]
        changes = ", ".join(f"{row['rung']} {row['note'].partition(' · ')[0]} %" for row in mine)
        lines.append(f"{case.label}: {changes}")
    return f"Accuracy before and after compression. {listed(lines)}."
