"""`anomia plan`: how large a study must be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import app, out_console


@app.command()
def plan(
    pilot: Annotated[
        Path | None, typer.Argument(help="The folder of a pilot run; without it, give accuracies.")
    ] = None,
    power: Annotated[
        bool, typer.Option("--power", help="How many items are needed to see a gap or a dissociation.")
    ] = False,
    opened: Annotated[
        str | None, typer.Option("--open", help="Open accuracy of base and arm.", metavar="0.45,0.35")
    ] = None,
    choice: Annotated[
        str | None, typer.Option(help="Choice accuracy of base and arm.", metavar="0.90,0.87")
    ] = None,
    gained: Annotated[float, typer.Option(help="Share of the items that only the arm gets right.")] = 0.02,
    dissociation: Annotated[
        float | None, typer.Option(help="Dissociation rate; default: from the accuracies.")
    ] = None,
    both_correct: Annotated[
        float | None, typer.Option(help="Share that base answers both ways; default: from the accuracies.")
    ] = None,
    dissociation_above: Annotated[float, typer.Option(help="The rate to be exceeded.")] = 0.05,
    gap_from: Annotated[float, typer.Option(help="The gap to be told from.")] = 0.0,
    chance: Annotated[float, typer.Option(help="Of seeing it: the power.")] = 0.8,
) -> None:
    """How large a study must be.

    Example: anomia plan --power --open 0.45,0.35 --choice 0.90,0.87
    """
    from anomia.errors import StudyError
    from anomia.measure.planning import Target, plan_from_assumptions, plan_from_pilot
    from anomia.measure.power import read_transition
    from anomia.records import read_records
    from anomia.report.plan_table import plan_view

    if not power:
        raise StudyError("plan: say what to plan: anomia plan --power")
    target = Target(dissociation_above, gap_from, chance)
    if pilot is not None:
        plans = list(plan_from_pilot(read_records(pilot), target))
    elif opened is not None and choice is not None:
        sides = (read_transition(opened, gained, "--open"), read_transition(choice, gained, "--choice"))
        plans = [
            plan_from_assumptions(*sides, both_correct=both_correct, dissociation=dissociation, target=target)
        ]
    else:
        raise StudyError("plan: give the folder of a pilot run, or --open BASE,ARM and --choice BASE,ARM")
    out_console.print(plan_view(plans, target))
