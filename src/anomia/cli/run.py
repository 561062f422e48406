"""`anomia run` and `anomia demo`: execute a study from flags or a file, and show the results."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from anomia.cli.app import app, err_console, out_console, progress_display
from anomia.cli.options import FlagSections, GivenFlags, with_study_options
from anomia.cli.report import make_report
from anomia.cli.show import show_notes
from anomia.errors import AnomiaError
from anomia.files import is_local
from anomia.flags import names

if TYPE_CHECKING:
    from anomia.matrix import Matrix


DEMO_LANGUAGES = ("english", "russian", "swahili", "indonesian")


class _RunCommand(TyperCommand):
    """Allows `--ray` without an address; Typer has no options with an optional value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with `--ray=local` in place of a bare `--ray`."""
        following = [*args, ""][1:]
        written = [
            "--ray=local" if arg == "--ray" and not re.fullmatch(r"auto|local|\S+:\S*\d+", after) else arg
            for arg, after in zip(args, following, strict=True)
        ]
        return list(super().parse_args(ctx, written))


@app.command(cls=_RunCommand)
@with_study_options
def run(
    *,
    study: Annotated[
        Path | None, typer.Argument(help="A study file (YAML). Flags override it.", metavar="STUDY")
    ] = None,
    what: Annotated[GivenFlags, FlagSections("models", "questions", "draw")],
    how: Annotated[GivenFlags, FlagSections("running")],
    where: Annotated[GivenFlags, FlagSections("machine", "asking", "calibration", "chat", "code")],
) -> None:
    """Measure a model (base) and its compressed versions (arms), and report what was lost.

    With several bases or data sets, each combination is a study of its own within the run (a cell).

    Example: anomia run --base Qwen/Qwen3-0.6B --arm wanda:0.5 --data tydiqa --limit 40
    """
    from anomia.matrix import read_matrix

    execute("run", read_matrix(study, what | where), **how)


@app.command()
@with_study_options
def demo(
    *,
    languages: Annotated[
        str, typer.Option(help="Comma-separated names or codes, or all.", metavar="A,B")
    ] = ",".join(DEMO_LANGUAGES),
    limit: Annotated[
        int, typer.Option(help="Items per language, up to 32.", metavar="N", min=1, max=32)
    ] = 24,
    how: Annotated[GivenFlags, FlagSections("running")],
) -> None:
    """Try it on a small real model: prune half the weights of Gemma 3 270M with Wanda and ask the shipped questions."""
    from anomia.demo import ARM, demo_model
    from anomia.matrix import read_matrix

    text = "preparing Gemma 3 270M (about a minute, once only)"
    if not err_console.is_terminal:
        err_console.print(text)
    with err_console.status(text):
        folder = demo_model()
    study = {
        "base": str(folder),
        "arms": [ARM],
        "data": "demo",
        "languages": None if languages == "all" else names(languages),
        "limit": limit,
        "calibration": "demo",
    }
    matrix = read_matrix(None, {key: value for key, value in study.items() if value is not None})
    execute("demo", matrix, **how)


def execute(
    command: str,
    matrix: Matrix,
    *,
    out: Path | None = None,
    as_packaged: bool = False,
    reuse: Sequence[Path] = (),
    track: str | None = None,
    ray: str | None = None,
    ray_worker: str | None = None,
    **reading: Any,
) -> None:
    """Execute the cells of a study and show the results. reading: for `read_results`."""
    from anomia.matrix import describe, with_packaged
    from anomia.measure.results import read_results, results_json
    from anomia.report.render.terminal import view
    from anomia.report.tables.packaging import packaging
    from anomia.report.terminal import run_view, side_by_side
    from anomia.run_folder import RunFolder, runs_of
    from anomia.running.execute import run_matrix
    from anomia.running.log import Tracker
    from anomia.running.progress import Several

    out = out or Path(f"anomia-{command}")
    if as_packaged:
        matrix = with_packaged(matrix)
    tracker = None if track is None else Tracker(track, out.name, describe(matrix))
    with progress_display() as progress, ExitStack() as held:
        watched = progress if tracker is None else Several([progress, tracker])
        measure = None
        if ray is not None:
            from anomia.running.on_ray import on_ray, read_size

            size = None if ray_worker is None else read_size(ray_worker)
            measure = held.enter_context(on_ray(None if ray == "local" else ray, size, watched))
        # Set after Ray starts, because Ray installs its own signal handler.
        held.enter_context(_stopped_like_ctrl_c())
        outcomes = run_matrix(matrix, out, progress=watched, reuse=reuse, measure=measure)
    found = []
    for run_folder in runs_of(out):
        results = read_results(run_folder, **reading)
        RunFolder(run_folder).results.write(results_json(results))
        found.append((run_folder, results))
    if tracker is not None:
        tracker.close({run_folder.name: results for run_folder, results in found})
    if len(found) == 1:
        for name in found[0][1].arms:
            out_console.print(run_view(found[0][1], name, brief=True))
        if found[0][1].packaging:
            out_console.print(view(packaging(found[0][1])))
    else:
        out_console.print(side_by_side(found))
    for _, results in found:
        show_notes(results)
    # The report's figures need a local disk; for remote runs there is `anomia report --out`.
    if is_local(out) and any(results.arms for _, results in found):
        make_report(
            [folder for folder, _ in found], RunFolder(out).report_folder, [results for _, results in found]
        )
    out_console.print(f"\nall tables: anomia show {out}", highlight=False, soft_wrap=True)
    first = RunFolder(found[0][0])
    out_console.print(
        f"results: {first.results.path}   records: {first.records_folder}",
        highlight=False,
        soft_wrap=True,
    )
    if found[0][1].arms:
        out_console.print(
            f"look at the items: anomia items {found[0][0]}"
            + (" --fate choice_only" if found[0][1].has_formats else ""),
            highlight=False,
            soft_wrap=True,
        )
    failed = [outcome for outcome in outcomes if outcome.failed]
    if failed:
        raise AnomiaError(
            "\n".join(
                f"{outcome.cell + ', ' if outcome.cell else ''}arm {outcome.arm} was not measured: {outcome.failed}"
                for outcome in failed
            )
        )


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP (shutdown, closed terminal) like Ctrl-C, so that a run ends cleanly."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        wanted = []
    before = [(number, signal.signal(number, stop)) for number in wanted]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
