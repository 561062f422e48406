"""How many items a study needs, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape

from anomia.measure.planning import Plan, Target
from anomia.measure.power import MOST_TIMES, Need, Transition, in_reach, rounded
from anomia.report.sheet import add_column, new_table, note

_FAR = "out of reach"


def plan_view(plans: Sequence[Plan], target: Target) -> RenderableType:
    """A table a plan, with what was assumed in it."""
    table = new_table(f"Items needed to see it in {100 * target.power:.0f} of 100 such studies", names=2)
    for header in (
        "arm", "scope", "open\n(%)", "choice\n(%)", "both\ncorrect", "disso-\nciation",
        f"items for\ndissociation\n> {100 * target.dissociation_against:g} %",
        f"items for\na gap apart\nfrom {100 * target.gap_against:g} %",
    ):  # fmt: skip
        add_column(table, header, words=header == "scope")
    for plan in plans:
        rate = "–" if plan.dissociation is None else f"{100 * plan.dissociation:.0f}"
        table.add_row(
            escape(plan.arm),
            escape(plan.scope),
            _change(plan.open),
            _change(plan.choice),
            f"{100 * plan.both_correct:.0f}",
            rate,
            _items(plan.for_dissociation, plan.pilot_items),
            _items(plan.for_gap, plan.pilot_items),
        )
    lines: list[RenderableType] = [table]
    lines.append(note("items: of the scope: one language's, or all languages' together where it is pooled"))
    if any(plan.pilot_items is not None for plan in plans):
        lines.append(note("from the pilot's figures as they stand; they are themselves uncertain"))
    if any(_FAR in cell for column in table.columns for cell in map(str, column.cells)):
        lines.append(
            note(
                f"{_FAR}: more than {MOST_TIMES} times the pilot's items; the figure stands at what it shall "
                "differ from"
            )
        )
    lines += [
        note(escape(f"{plan.arm}, {plan.scope}: {reason}"))
        for plan in plans
        for reason in (plan.for_dissociation, plan.for_gap)
        if isinstance(reason, str)
    ]
    return Group(*lines)


def _change(part: Transition) -> str:
    return f"{100 * part.base:.0f} → {100 * part.arm:.0f}"


def _items(need: Need | str, pilot_items: int | None) -> str:
    if isinstance(need, str):
        return "–"
    if need.items is None:
        return "no number"
    if pilot_items is None:
        return f"{need.items:,}"
    return f"{rounded(need.items):,}" if in_reach(need.items, pilot_items) else _FAR
