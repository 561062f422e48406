"""How many items a study needs, and its cost."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.measure.power import MOST_TIMES, NeededItems, in_reach, rounded
from anomia.plan.cost import CellForecast, on_machine
from anomia.plan.machines import Machine
from anomia.plan.sample_size import ItemPlan, PlanTarget
from anomia.report.tables.table import ARM, Cell, Change, Column, Marked, Note, Table

_FAR = "out of reach"


def needed(plans: Sequence[ItemPlan], target: PlanTarget) -> Table:
    """One row per plan, with its assumptions."""
    rows: list[list[Cell]] = [
        [
            plan.arm, plan.scope, Change(plan.open.base, plan.open.arm), Change(plan.choice.base, plan.choice.arm),
            plan.both_correct, plan.dissociation, _items(plan.for_dissociation, plan.pilot_items),
            _items(plan.for_gap, plan.pilot_items),
        ]
        for plan in plans
    ]  # fmt: skip
    notes: list[Note] = ["items: in one language, or in all languages together where the scope is pooled"]
    if any(plan.pilot_items is not None for plan in plans):
        notes.append("from the pilot's figures, which are themselves uncertain")
    if any(_FAR in row for row in rows):
        notes.append(
            f"{_FAR}: more than {MOST_TIMES} times the pilot's items; the figure is too close to the value it should "
            "differ from"
        )
    notes += [
        f"{plan.arm}, {plan.scope}: {reason}"
        for plan in plans
        for reason in (plan.for_dissociation, plan.for_gap)
        if isinstance(reason, str)
    ]
    against, gap = 100 * target.dissociation_against, 100 * target.gap_against
    return Table(
        "plan",
        f"Items needed for {100 * target.power:.0f} % power",
        (
            ARM, Column("scope", "scope", "text"), Column("open", "open\n(%)"), Column("choice", "choice\n(%)"),
            Column("both_correct", "both\ncorrect"), Column("dissociation", "disso-\nciation"),
            Column("items_for_dissociation", f"to show a\ndissociation\nabove {against:g} %", "count"),
            Column("items_for_gap", f"to show a gap\nother than\n{gap:g} %", "count"),
        ),
        rows,
        notes,
        keys=2,
    )  # fmt: skip


def work(cells: Sequence[CellForecast]) -> Table:
    """The work in a study, by cell."""
    return Table(
        "work",
        "What the study needs",
        (
            Column("cell", "cell", "text"), Column("weights", "weights", "number"), Column("arms", "arms", "count"),
            Column("items", "items\nper arm", "count"), Column("million_tokens", "tokens (M)", "number", 1),
            Column("tera_operations", "10¹² ope-\nrations", "number", 0),
            Column("disk_megabytes", "disk (MB)", "number", 0),
        ),
        [
            (
                cell.name, Marked(cell.size.parameters / 1e9, " B"), len(cell.work) - 1, cell.items,
                (cell.total.tokens + cell.total.calibration) / 1e6, cell.operations / 1e12, cell.record_bytes / 1e6,
            )
            for cell in cells
        ],
    )  # fmt: skip


def places(cells: Sequence[CellForecast], machines: Sequence[Machine]) -> Table:
    """Where a study can run: the cost of each cell on each machine, and what the estimate is based on."""
    rows: list[list[Cell]] = []
    rules = []
    for machine in machines:
        seconds = 0.0
        for place, cell in enumerate(cells):
            stay = on_machine(cell, machine)
            name = machine.name if place == 0 else ""
            took = (
                [stay.why, None]
                if stay.seconds is None
                else [_time(stay.seconds), _dollars(stay.seconds, machine)]
            )
            seconds += stay.seconds or 0.0
            rows.append([name, cell.name, stay.batch, stay.need_bytes / 1e9, *took])
        if len(cells) > 1:
            rows.append(["", "all that fit", "", "", _time(seconds), _dollars(seconds, machine)])
        rules.append(len(rows) - 1)
    models = {cell.size.name: cell.size.weight_bytes for cell in cells}
    notes: list[Note] = [
        f"models on disk: {sum(models.values()) / 1e9:.1f} GB; memory is weights and cache at the peak, on CPUs with "
        "the libraries, and in float32 where a run may choose it (docs/engine.md)",
        "two CPU cores are measured, GPUs assumed: --machine NAME:share=0.5,dollars=2 changes them (docs/scale.md)",
    ]
    if not all(cell.exact for cell in cells):
        notes.append(
            "the tokenizer or the questions are not on this machine: token counts are estimates, within about a "
            "fifth"
        )
    return Table(
        "places",
        "Where it can run",
        (
            Column("machine", "machine", "text"), Column("cell", "cell", "text"), Column("batch", "batch", "count"),
            Column("memory_gigabytes", "memory (GB)", "number", 1), Column("time", "time", "number"),
            Column("dollars", "dollars", "number"),
        ),
        rows,
        notes,
        keys=2,
        rules=rules,
    )  # fmt: skip


def _items(need: NeededItems | str, pilot_items: int | None) -> Cell:
    if isinstance(need, str):
        return None
    if need.items is None:
        return "no number"
    if pilot_items is None:
        return need.items
    return rounded(need.items) if in_reach(need.items, pilot_items) else _FAR


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _dollars(seconds: float, machine: Machine) -> float:
    return seconds / 3600 * machine.dollars
