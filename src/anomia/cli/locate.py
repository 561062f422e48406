"""`anomia locate`: which weights cost a compressed model its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import app, out_console, progress_display
from anomia.cli.options import FlagSections, GivenFlags, with_study_options
from anomia.errors import StudyError


@app.command()
@with_study_options
def locate(
    *,
    target: Annotated[
        str,
        typer.Argument(
            help="A run with --arm, or the uncompressed model (BASE) and then COMPRESSED.", metavar="RUN|BASE"
        ),
    ],
    compressed: Annotated[
        str | None,
        typer.Argument(
            help="The compressed model: a hub id, a folder or a .gguf file.", metavar="COMPRESSED"
        ),
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(help="The compressed model (arm), as the run names it.", metavar="ARM"),
    ] = None,
    among: Annotated[
        str,
        typer.Option(
            help="What to explain: choice_only (still picked, no longer answered), lost (no longer answered), or "
            "positions (of base's long answers, where its token has rank 2 to 10).",
            metavar="WHICH",
        ),
    ] = "choice_only",
    items: Annotated[
        int,
        typer.Option(
            min=4,
            help="Maximum number of these items; as many kept items are added for comparison.",
            metavar="N",
        ),
    ] = 64,
    per_answer: Annotated[
        int,
        typer.Option(min=1, help="Maximum positions per long answer, counted from its start.", metavar="N"),
    ] = 1,
    points: Annotated[
        int,
        typer.Option(min=3, help="Integration points between the two models (an odd number).", metavar="N"),
    ] = 3,
    draws: Annotated[int, typer.Option(min=1, help="Random orders to compare with.", metavar="N")] = 3,
    keep: Annotated[
        Path | None,
        typer.Option(help="Write the matrices to keep dense, in the forms of several tools.", metavar="FILE"),
    ] = None,
    what: Annotated[GivenFlags, FlagSections("questions", "draw", "machine")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="With two models: the run folder; an existing one is resumed (default anomia-locate).",
            metavar="RUN",
        ),
    ] = None,
) -> None:
    """Locate the damage: which weights, if restored, recover a compressed model's answers?

    Given two models, measures them first. Run the command again to resume.

    Example: anomia locate anomia-run --arm wanda:0.5
    """
    from anomia.compress.spec import arm_of
    from anomia.files import is_local, place
    from anomia.items.sets import only_probes
    from anomia.locate.find import locate_arm
    from anomia.locate.keep import keep_notes, kept_modules, stacks_of, write_keep
    from anomia.locate.located import LocateOptions
    from anomia.locate.plan import forecast_of, plan_of
    from anomia.locate.prepare import PROBES_OF, open_arm
    from anomia.models.load import check_place
    from anomia.report.figures.located import draw_located
    from anomia.report.figures.write import FORMATS, write_figures
    from anomia.report.render.terminal import view
    from anomia.report.tables.located import located_tables
    from anomia.run_folder import RunFolder
    from anomia.running.execute import run_study
    from anomia.study import read_study

    if (arm is None) == (compressed is None):
        raise StudyError(
            "locate: give a run and --arm, as in `anomia locate RUN --arm wanda:0.5`, or two models, as in `anomia "
            "locate BASE COMPRESSED`"
        )
    seed = what.get("seed")
    options = LocateOptions(
        among=among,  # type: ignore[arg-type]  # LocateOptions checks it
        items=items,
        per_answer=per_answer,
        points=points,
        draws=draws,
        **({} if seed is None else {"seed": seed}),
    )
    with progress_display() as progress:
        if compressed is None:
            given = [name for name in (*what, *(["out"] if out else [])) if name != "seed"]
            if given:
                raise StudyError(
                    f"locate: --{given[0].replace('_', '-')} is a setting of the run, which is already measured; leave "
                    "it out"
                )
            run, name = place(target), str(arm)
        else:
            run, name = out or Path("anomia-locate"), arm_of(compressed)
            probes = PROBES_OF[options.among]
            only = only_probes(str(what.get("data", "")))
            if only and not set(probes) <= set(only):
                raise StudyError(f"locate: {what['data']} is only answered at length; add --among positions")
            study = read_study(None, {"base": target, "arms": [name], "probes": list(only or probes), **what})
            for model in (compressed, target):
                check_place(
                    model,
                    revision=study.revision if model == target else None,
                    trust_remote_code=study.trust_remote_code,
                    base=None if model == target else target,
                )
            if target.endswith(".gguf"):
                progress.say(
                    "what locating needs is stated after measuring, because a GGUF file has no config.json"
                )
            else:
                progress.say(forecast_of(study, name, options).words)
            for outcome in run_study(study, run, progress=progress):
                if outcome.failed:
                    raise StudyError(f"arm {outcome.arm} was not measured: {outcome.failed}")
        cell, name = open_arm(run, name, progress, options.among)
        progress.say(plan_of(cell, name, options).words)
        found = locate_arm(run, name, options, progress)
    out_console.print(view(*located_tables(found)))
    folder = RunFolder(cell.path).located(name)
    if is_local(folder.path):
        write_figures(draw_located(found), folder.figures, FORMATS)
    out_console.print(f"\n{found.sentence}", highlight=False, soft_wrap=True)
    out_console.print(f"tables and figures: {folder.path}", highlight=False, soft_wrap=True)
    if keep is not None:
        kinds = dict(found.units.select("name", "kind").iter_rows())
        modules = kept_modules(found.place, kinds)
        notes = keep_notes(found.place, kinds, found=found.found, share=found.place_share)
        write_keep(keep, modules, stacks_of(kinds), sentence=found.sentence, notes=notes)
        out_console.print(f"matrices to keep dense: {keep}", highlight=False, soft_wrap=True)
        for note in notes:
            out_console.print(f"of this list: {note}", highlight=False, soft_wrap=True)
