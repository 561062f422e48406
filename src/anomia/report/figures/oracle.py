"""What broader decoding still finds (paper, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from anomia.measure import measures
from anomia.measure.frame import POOLED
from anomia.measure.rates import Estimate
from anomia.probes import ORACLES, long, short
from anomia.report.figures.cases import Case, Drawn, scopes
from anomia.report.figures.parts import (
    INTERVALS,
    ONE_SCOPE,
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
    stacked,
    starred,
    tooltip,
)
from anomia.report.figures.style import COLORS, GREY

WAYS = {"greedy": "greedy"} | {name: long(name) for name in ORACLES}
WAY_SCALE = alt.Scale(domain=list(WAYS.values()), range=[COLORS["open"], *(COLORS[name] for name in ORACLES)])
# Pixels from the middle of a row to each way of decoding, and from there to the lines next to it.
MIDDLE, NUDGE = 11, 6
ARM, BASE, CONTROL = "datum.of == 'arm'", "datum.of == 'base'", "datum.of == 'control'"


def draw_oracle(found: Sequence[Case]) -> Drawn | None:
    """(a) Accuracy of greedy decoding and oracle recovery; (b) the arm's failures that broader decoding recovers."""
    reached = [row for number, case in enumerate(found) for row in _reached(case, number)]
    recovered = [row for number, case in enumerate(found) for row in _recovered(case, number)]
    if not reached:
        return None
    rows = settled([*reached, *recovered])
    reached, recovered = rows[: len(reached)], rows[len(reached) :]
    parts = [_accuracy_panel(reached)]
    if recovered:
        parts.append(_recovery_panel(recovered))
    return Drawn(
        name="figure4",
        title="What broader decoding still finds",
        caption=(
            f"{compared(found)}. (a) Share of items answered by "
            f"{', by '.join(['greedy decoding', *map(long, ORACLES)])}, on the items asked that way. (b) Of the arm's "
            f"open failures, the share that {_from_above()} find; base: of base's own failures; diamond (control "
            f"answer): a wrong option found in gold's place. Oracle recovery is an upper bound. {INTERVALS}; n is the "
            f"number of items, in (b) of failures.{starred(rows)}"
        ),
        alt=_alt(found, reached, recovered),
        chart=filtered(stacked(parts), found),
        table=pl.DataFrame(rows, infer_schema_length=None),
    )


def _accuracy_panel(rows: Sequence[ChartRow]) -> Any:
    y = rows_axis("way")
    color = alt.Color(field="way", type="nominal", scale=WAY_SCALE, legend=None)
    tips = tooltip(case="arm", where="language", way="decoding", of="model", shown="found (%)", n="items")
    x = percent_axis("(a) items answered (%) · ○ base · ● arm", domain=(0, 1))
    layers = [
        *dots(x, y, ONE_SCOPE, BASE, color=color, tips=tips, filled=False, nudge=-4),
        *dots(x, y, ONE_SCOPE, ARM, color=color, tips=tips, nudge=4),
        beside("note", y, ONE_SCOPE, ARM),
    ]
    return panels(layers, rows)


def _recovery_panel(rows: Sequence[ChartRow]) -> Any:
    y = rows_axis("where")
    color = alt.Color(field="way", type="nominal", scale=WAY_SCALE, legend=None)
    tips = tooltip(case="arm", where="language", way="decoding", of="of", shown="recovered (%)", n="failures")
    x = percent_axis("(b) failures recovered (%) · ○ base · ● arm · ◊ control answer", domain=(0, 1))
    layers = []
    for number, way in enumerate(ORACLES):
        middle = MIDDLE * (2 * number + 1 - len(ORACLES))
        mine = f"datum.oracle == '{way}'"
        base = dots(
            x, y, SCOPES, mine, BASE, color=color, tips=tips, filled=False, nudge=middle, size=45, width=1
        )
        control = dots(
            x, y, SCOPES, mine, CONTROL, color=alt.value(GREY), tips=tips, shape="diamond", filled=False,
            nudge=middle + NUDGE, size=45, width=1,
        )  # fmt: skip
        layers += [
            *base,
            *control,
            *dots(x, y, SCOPES, mine, ARM, color=color, tips=tips, nudge=middle - NUDGE),
        ]
    layers.append(beside("note", y, SCOPES, ARM, "datum.last"))
    return panels(layers, in_one_panel(rows), height=alt.Step(26 * len(ORACLES)))


def _reached(case: Case, number: int) -> list[ChartRow]:
    rows = []
    for scope in dict.fromkeys([POOLED, *scopes(case)]):
        for order, (way, words) in enumerate(WAYS.items()):
            before, after = case.accuracies(f"oracle_{way}", scope)
            if before is None or after is None:
                continue
            change = note(f"{signed(100 * before.value)} → {signed(100 * after.value)}", after.n)
            fields = place(case, number, scope) | {
                "panel": "a",
                "oracle": way,
                "way": words,
                "way_order": order,
            }
            rows += [
                measured(before, **fields, of="base", note=change, last=True),
                measured(after, **fields, of="arm", note=change, last=True),
            ]
    return rows


def _recovered(case: Case, number: int) -> list[ChartRow]:
    rows = []
    for scope in scopes(case):
        found = {way: case.figures.get((case.arm, measures.recovery(way, "arm"), scope)) for way in ORACLES}
        shown = [f"{way} {_short(estimate)}" for way, estimate in found.items() if estimate]
        if not shown:
            continue
        known = [way for way, estimate in found.items() if estimate]
        counts = [estimate.n for estimate in found.values() if estimate]
        for order, way in enumerate(known):
            fields = place(case, number, scope) | {
                "panel": "b",
                "oracle": way,
                "way": WAYS[way],
                "way_order": order,
            }
            for of in ("base", "control", "arm"):
                estimate = case.figures.get((case.arm, measures.recovery(way, of), scope))
                if estimate is not None:
                    text = note(" · ".join(shown), max(counts))
                    rows.append(measured(estimate, **fields, of=of, note=text, last=way == known[-1]))
    return rows


def _short(estimate: Estimate) -> str:
    """The value alone; the interval is drawn and in the tooltip."""
    return signed(100 * estimate.value)


def _from_above() -> str:
    """The ways of decoding and where panel (b) shows them: `beams (above) or samples (below)`."""
    places = ["above", *["in the middle"] * (len(ORACLES) - 2), "below"]
    return " or ".join(f"{short(name)} ({where})" for name, where in zip(ORACLES, places, strict=True))


def _alt(found: Sequence[Case], reached: Sequence[ChartRow], recovered: Sequence[ChartRow]) -> str:
    lines = []
    for case in found:
        mine = [r for r in reached if (r["case"], r["scope"], r["of"]) == (case.label, POOLED, "arm")]
        text = f"{case.label}: " + ", ".join(f"{row['way']} {row['note']}" for row in mine)
        whole = [r for r in recovered if (r["case"], r["of"], r["last"]) == (case.label, "arm", True)]
        if whole:
            text += f"; of its open failures in {whole[-1]['where']} recovered: {whole[-1]['note']}"
        lines.append(text)
    return (
        f"Items answered by greedy decoding and reached by {' and '.join(map(short, ORACLES))}, base to arm, "
        f"in per cent. {listed(lines)}."
    )
