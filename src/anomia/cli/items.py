"""`anomia items` and `anomia export`: individual items, to read or as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import RunFolderArgument, app, out_console


@app.command()
def items(
    run: RunFolderArgument,
    fate: Annotated[
        str | None, typer.Option(help="kept, choice_only, open_only or lost.", metavar="FATE")
    ] = None,
    language: Annotated[str | None, typer.Option(help="A name or a code.", metavar="LANGUAGE")] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            help="The compressed model (arm), as the run names it; default: the study's first, null arms last.",
            metavar="ARM",
        ),
    ] = None,
    loops: Annotated[
        bool, typer.Option("--loops", help="Only items whose open output repeats itself.")
    ] = False,
    item_id: Annotated[
        str | None, typer.Option("--id", help="Only the item with this id.", metavar="ID")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.", metavar="N")] = 10,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object per line: the question, base's answers and the arm's."
        ),
    ] = False,
) -> None:
    """Show individual items: the question, and what base and the compressed model answered and picked."""
    from anomia.arms import find_arm
    from anomia.errors import RunError, nearest
    from anomia.items.languages import language_name
    from anomia.measure.fates import FATES
    from anomia.measure.recognition import with_fates
    from anomia.measure.results import order_of
    from anomia.report.export import item_json
    from anomia.report.reference import to_read
    from anomia.report.terminal import item_view, selected_items
    from anomia.run_folder import RunFolder, runs_of

    cells = runs_of(run)
    if len(cells) > 1:
        # Cells have different items, and a long list of the last cell would hide the first.
        choice = ", ".join(map(str, cells))
        raise RunError(f"items: {run} holds {len(cells)} runs; name one: {choice}")
    run = cells[0]
    RunFolder(run).check_is_run()
    records = with_fates(RunFolder(run).records())
    known_arms = order_of(records["arm"].unique(maintain_order=True), RunFolder(run).study())
    arms = to_read(name for name in known_arms if name != "base")
    if not arms:
        raise RunError(f"items: {run} has no finished arm yet")
    if fate is not None and fate not in FATES:
        raise RunError(f"items: unknown fate {fate!r}; {nearest(fate, FATES)}")
    arm = arms[0] if arm is None else find_arm(arm, arms, where=f"items: {run}")
    known = records["language"].unique().to_list()
    wanted = None if language is None else language_name(language)
    if wanted is not None and wanted not in known:
        raise RunError(f"items: {run} has no language {wanted!r}; {nearest(wanted, known)}")
    chosen = selected_items(records, arm=arm, fate=fate, language=wanted, loops=loops)
    if item_id is not None:
        ids = records["item_id"].unique().to_list()
        if item_id not in ids:
            raise RunError(f"items: {run} has no item {item_id!r}; {nearest(item_id, ids)}")
        chosen = chosen.filter(chosen["item_id"] == item_id)
    questions = {
        (row["language"], row["item_id"]): row for row in RunFolder(run).items().iter_rows(named=True)
    }
    before = {
        (row["language"], row["item_id"]): row
        for row in records.filter(records["arm"] == "base").iter_rows(named=True)
    }
    for row in chosen.head(limit).iter_rows(named=True):
        key = row["language"], row["item_id"]
        if key not in questions or key not in before:
            raise RunError(
                f"items: {run} has records of {row['item_id']!r}, which is not one of its items; the run is damaged"
            )
        if as_json:
            typer.echo(item_json(questions[key], before[key], row))
        else:
            out_console.print(item_view(questions[key], before[key], row))
    if as_json:
        return
    out_console.print(f"{min(limit, len(chosen))} of {len(chosen)} items", style="dim", highlight=False)


@app.command()
def export(
    run: RunFolderArgument,
    file: Annotated[
        Path, typer.Argument(help="FILE.csv, FILE.parquet or FILE.jsonl; a folder for tasks.", metavar="FILE")
    ],
    to: Annotated[
        str | None,
        typer.Option(help="lm-eval-task: the questions as tasks of lm-evaluation-harness.", metavar="FORMAT"),
    ] = None,
) -> None:
    """Write one row per arm and item, or the questions as tasks for another harness."""
    from anomia.errors import RunError
    from anomia.grade import CONTAINMENT
    from anomia.interop.lm_eval_tasks import export_tasks
    from anomia.report.export import export_run

    if to is not None:
        if to != "lm-eval-task":
            raise RunError(f"export: unknown --to {to!r}; known: lm-eval-task")
        found = export_tasks(run, file)
        lines = [f"{len(found.names)} tasks in {file}; run them: {found.command}"]
        if found.excluded:
            lines.append(
                f"excluded: {found.excluded} items whose gold answer is not an option or whose options are bare letters"
            )
        if found.graded_by != CONTAINMENT.grader:
            lines.append(
                f"the run was graded by {found.graded_by}; the tasks say containment (contains) and exact match (em)"
            )
        out_console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
        return
    out_console.print(f"{export_run(run, file)} rows in {file}", highlight=False, soft_wrap=True)
