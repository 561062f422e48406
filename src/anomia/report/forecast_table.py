"""The tables of `anomia plan STUDY`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from anomia.report.sheet import add_column, new_table, note
from anomia.running.forecast import CellForecast, on_machine
from anomia.running.machines import Machine


def forecast_view(cells: Sequence[CellForecast], machines: Sequence[Machine]) -> RenderableType:
    """What the cells hold, what they take on each machine, and what this rests on."""
    work = new_table("What the study asks for")
    for header in (
        "cell",
        "weights",
        "arms",
        "items\nan arm",
        "tokens (M)",
        "10¹² ope-\nrations",
        "disk (MB)",
    ):
        add_column(work, header)
    for cell in cells:
        total = cell.total
        work.add_row(
            cell.name,
            f"{cell.size.parameters / 1e9:.2f} B",
            str(len(cell.work) - 1),
            str(cell.items),
            f"{(total.tokens + total.calibration) / 1e6:.1f}",
            f"{cell.operations / 1e12:.0f}",
            f"{cell.record_bytes / 1e6:.0f}",
        )
    where = new_table("Where it can run", names=2)
    for header in ("machine", "cell", "batch", "memory (GB)", "time", "dollars"):
        add_column(where, header, words=header == "cell")
    for machine in machines:
        seconds = 0.0
        for place, cell in enumerate(cells):
            stay = on_machine(cell, machine)
            time = stay.why if stay.seconds is None else _time(stay.seconds)
            cost = "–" if stay.seconds is None else _dollars(stay.seconds, machine)
            seconds += stay.seconds or 0.0
            name = machine.name if place == 0 else ""
            where.add_row(name, cell.name, str(stay.batch), f"{stay.need_bytes / 1e9:.1f}", time, cost)
        if len(cells) > 1:
            where.add_row("", "all that fit", "", "", _time(seconds), _dollars(seconds, machine))
        where.add_section()
    models = {cell.size.name: cell.size.weight_bytes for cell in cells}
    lines = [
        f"models on disk: {sum(models.values()) / 1e9:.1f} GB; memory is weights and cache at the peak "
        "(docs/engine.md)",
        "two CPU cores are measured, GPUs assumed: --machine NAME:share=0.5,dollars=2 changes them (docs/scale.md)",
    ]
    if not all(cell.exact for cell in cells):
        lines.append(
            "the tokenizer or the questions are not on this machine: tokens are those of stand-ins, within about "
            "a fifth"
        )
    return Group(work, where, *(note(line) for line in lines))


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _dollars(seconds: float, machine: Machine) -> str:
    return f"{seconds / 3600 * machine.dollars:.2f}"
