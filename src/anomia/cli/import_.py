"""`anomia import`: turn the sample logs of another harness into a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomia.cli.app import app, out_console
from anomia.interop.formats import MODULES

if TYPE_CHECKING:
    from anomia.models.difference import Difference


@app.command("import")
def import_(
    tool: Annotated[
        str,
        typer.Argument(help=f"The harness that wrote the samples: {' or '.join(MODULES)}.", metavar="TOOL"),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders, base's first; or files, base's first for each task.",
            metavar="PATH",
        ),
    ] = None,
    base: Annotated[
        list[Path] | None, typer.Option(help="A file or folder of base's samples.", metavar="PATH")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="A compressed model's name, and the file or folder of its samples; repeatable.",
            metavar="NAME=PATH",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run folder to write.", metavar="RUN")] = Path(
        "anomia-import"
    ),
    filter_name: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="The tool's filter to use; default: base's first, for every model.",
            metavar="NAME",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="The metric of 0 or 1 that grades generated answers; default: the task's own.",
            metavar="NAME",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Read only a folder's logs of tasks with such a name (`mmlu_*`); repeatable.",
            metavar="PATTERN",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Language of all questions; default: as the documents or task names say.", metavar="LANGUAGE"
        ),
    ] = None,
) -> None:
    """Turn the sample logs of another harness into a run, for show, gate, report and items.

    Base and every compressed model need a generation and a multiple-choice task over the same documents, such as
    truthfulqa_gen and truthfulqa_mc1. Many such pairs of lm-evaluation-harness are recognised by name.

    Example: anomia import lm-eval --base out/base --arm int4=out/int4 --out RUN
    """
    from anomia.errors import DataError, nearest
    from anomia.interop.arms import models_from
    from anomia.interop.as_run import import_run
    from anomia.models.difference import listed

    if tool not in MODULES:
        raise DataError(f"import: unknown tool {tool!r}; {nearest(tool, MODULES)}")
    models = models_from(tool, files or [], base or [], arm or [], filter_name=filter_name)
    found = import_run(
        tool, models, out, filter_name=filter_name, language=language, metric=metric, tasks=task or []
    )
    lines = [
        f"{found.questions} questions in {out}: {listed(found.languages, 12)}; base and {', '.join(found.arms)}",
        f"joined by {found.by}; graded by {', '.join(f'{by} ({form})' for form, by in found.graded_by.items())}",
    ]
    lines.append(f"pairs of tasks (generation and multiple choice): {_pairs(found.pairs)}")
    if found.filters:
        lines.append(f"filter of {tool}, the same for every model: {_filters(found.filters)}")
    if found.named:
        lines.append(
            f"languages, from the task names: {_languages(found.named)}; to change it: --language NAME"
        )
    excluded = [f"{count} {reason}" for reason, count in found.excluded.items() if count]
    if excluded:
        lines.append(f"excluded: {', '.join(excluded)}")
    if found.older:
        lines.append(f"older logs of the same tasks, not used: {', '.join(map(str, found.older))}")
    if found.unused:
        lines.append(f"no answers and no choices in: {', '.join(map(str, found.unused))}")
    if found.unpaired:
        lines.append(f"logs not used: {'; '.join(found.unpaired)}")
    lines += found.notes
    lines += [line for name, rows in found.differences.items() for line in _differing(name, rows)]
    lines.append(f"see it: anomia show {out}")
    out_console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    from anomia.models.difference import listed

    return listed([f"{opened} and {chosen}" for opened, chosen in pairs], 4)


def _languages(named: Mapping[str, str]) -> str:
    """Each language with the tasks that have it, as text."""
    from anomia.models.difference import listed

    tasks: dict[str, list[str]] = {}
    for task, name in named.items():
        tasks.setdefault(name, []).append(task)
    return listed([f"{listed(each)} {name}" for name, each in tasks.items()], 8)


def _filters(filters: Mapping[str, tuple[str, Sequence[str]]]) -> str:
    """Each filter used, the filters available in its logs, and its tasks, as text."""
    from anomia.models.difference import listed

    tasks: dict[str, list[str]] = {}
    for task, (name, known) in filters.items():
        tasks.setdefault(f"{name} (of {', '.join(known)})" if len(known) > 1 else name, []).append(task)
    return "; ".join(f"{name} in {listed(each)}" for name, each in tasks.items())


def _differing(arm: str, rows: Sequence[Difference]) -> list[str]:
    """Lines on the relevant differences between how the harness ran an arm and base."""
    from anomia.models.difference import listed

    grave = [row for row in rows if row.kind == "confounding"]
    noted = [row.what for row in rows if row.kind == "noted"]
    lines = [
        f"{arm}: different {row.what}: {row.base} in base, {row.other} here ({row.why})" for row in grave
    ]
    if grave:
        lines.append(
            f"{arm}: its losses may come from this and not from the weights; run the harness with the same settings to "
            "tell them apart"
        )
    if noted:
        lines.append(f"{arm}: also differs from base in {listed(noted, 8)}")
    return lines
