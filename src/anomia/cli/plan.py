"""`anomia plan`: the cost of a study, and the number of items it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from anomia.cli.app import app, out_console
from anomia.cli.options import FlagSections, GivenFlags, with_study_options
from anomia.renamed import option

_ITEMS = "With --items-needed"


@app.command(context_settings={"token_normalize_func": option})
@with_study_options
def plan(
    *,
    study: Annotated[
        Path | None,
        typer.Argument(
            help="A study file. With --items-needed: a pilot run's folder, or omit it.", metavar="STUDY"
        ),
    ] = None,
    what: Annotated[GivenFlags, FlagSections("models", "questions")],
    machine: Annotated[
        list[str] | None,
        typer.Option(
            help="cpu, A6000 or H100, with changes as in H100:dollars=2; repeatable.",
            metavar="NAME[:COLUMN=VALUE,…]",
        ),
    ] = None,
    items_needed: Annotated[
        bool,
        typer.Option(
            "--items-needed",
            help="Show how many items it takes to detect a dissociation or a gap, instead of the cost.",
        ),
    ] = False,
    opened: Annotated[
        str | None,
        typer.Option(
            "--open",
            help="Assumed open accuracy of base and of the arm.",
            metavar="0.45,0.35",
            rich_help_panel=_ITEMS,
        ),
    ] = None,
    choice: Annotated[
        str | None,
        typer.Option(
            help="Assumed choice accuracy of base and of the arm.",
            metavar="0.90,0.87",
            rich_help_panel=_ITEMS,
        ),
    ] = None,
    gained: Annotated[
        float,
        typer.Option(
            help="Assumed share of the items that the arm gets right and base doesn't.",
            metavar="SHARE",
            rich_help_panel=_ITEMS,
        ),
    ] = 0.02,
    dissociation: Annotated[
        float | None,
        typer.Option(
            help="Assumed dissociation rate; default: derived from the accuracies.",
            metavar="RATE",
            rich_help_panel=_ITEMS,
        ),
    ] = None,
    both_correct: Annotated[
        float | None,
        typer.Option(
            help="Assumed share that base gets right in both formats; default: derived from the accuracies.",
            metavar="SHARE",
            rich_help_panel=_ITEMS,
        ),
    ] = None,
    dissociation_above: Annotated[
        float,
        typer.Option(help="Detect a dissociation rate above this.", metavar="RATE", rich_help_panel=_ITEMS),
    ] = 0.05,
    gap_from: Annotated[
        float, typer.Option(help="The gap to test against.", metavar="GAP", rich_help_panel=_ITEMS)
    ] = 0.0,
    target_power: Annotated[
        float,
        typer.Option(
            help="Target power: the probability that the study detects an effect of the assumed size.",
            metavar="SHARE",
            rich_help_panel=_ITEMS,
        ),
    ] = 0.8,
) -> None:
    """Show what a study will cost, before anything is loaded; with --items-needed, show how many items are needed
    instead.

    Example: anomia plan studies/small.yaml

    Example: anomia plan --items-needed --open 0.45,0.35 --choice 0.90,0.87
    """
    from anomia.errors import StudyError
    from anomia.measure.power import read_transition
    from anomia.plan.sample_size import PlanTarget, plan_from_assumptions, plan_from_pilot
    from anomia.report.render.terminal import view
    from anomia.report.tables.plan import needed
    from anomia.run_folder import RunFolder, runs_of

    if not items_needed:
        if study is None:
            raise StudyError("plan: nothing to plan: run anomia plan STUDY, or anomia plan --items-needed")
        out_console.print(_cost(study, what, machine))
        return
    target = PlanTarget(dissociation_above, gap_from, target_power)
    if study is not None:
        pilots = runs_of(study)
        for pilot in pilots:
            if len(pilots) > 1:
                out_console.print(f"\n{pilot.name}", style="bold", markup=False, highlight=False)
            out_console.print(view(needed(list(plan_from_pilot(RunFolder(pilot).records(), target)), target)))
        return
    if opened is not None and choice is not None:
        sides = (read_transition(opened, gained, "--open"), read_transition(choice, gained, "--choice"))
        plans = [
            plan_from_assumptions(*sides, both_correct=both_correct, dissociation=dissociation, target=target)
        ]
    else:
        raise StudyError("plan: give the folder of a pilot run, or --open BASE,ARM and --choice BASE,ARM")
    out_console.print(view(needed(plans, target)))


def _cost(study: Path, settings: GivenFlags, machines: list[str] | None) -> RenderableType:
    from anomia.matrix import read_matrix
    from anomia.plan.cost import forecast
    from anomia.plan.machines import MACHINES, read_machine
    from anomia.report.render.terminal import view
    from anomia.report.tables.plan import places, work

    matrix = read_matrix(study, settings)
    chosen = [read_machine(text) for text in machines or MACHINES]
    cells = forecast(matrix)
    return view(work(cells), places(cells, chosen))
