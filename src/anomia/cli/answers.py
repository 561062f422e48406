"""`anomia answers`: a model's own answers as calibration text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomia.cli.app import app, out_console, progress_display
from anomia.cli.compress_options import ModelArgument
from anomia.cli.options import FlagSections, GivenFlags, with_study_options


@app.command()
@with_study_options
def answers(
    *,
    model: ModelArgument,
    out: Annotated[
        Path,
        typer.Argument(help="The file to write (.jsonl); an interrupted call is continued.", metavar="FILE"),
    ],
    control: Annotated[
        Path | None,
        typer.Option(
            help="Also write control answers: the same prompts, each followed by the answer to another one.",
            metavar="FILE",
        ),
    ] = None,
    what: Annotated[GivenFlags, FlagSections("questions", "draw", "asking")],
    where: Annotated[GivenFlags, FlagSections("machine", "chat", "code")],
) -> None:
    """Write a model's own greedy answers as calibration text, for the methods that take --calibration file:FILE.

    Prompts are asked as a study would ask them. Compression that is calibrated on what the model says when it is asked
    keeps more of its answers than with general text. Control answers tell how much of that is the text's form.

    Example: anomia answers Qwen/Qwen3-0.6B answers.jsonl --data tydiqa --limit 64 --not-in anomia-run
    """
    from anomia.errors import StudyError
    from anomia.running.answers import check_several, prompts_of, study_of_answers, write_answers
    from anomia.running.control import write_control
    from anomia.running.model import make_alone
    from anomia.words import counted

    if control is not None and control.absolute() == out.absolute():
        raise StudyError(f"--control {control} is the file of the answers themselves; give another one")
    # Only control answers are graded, which may run programs.
    graded = {} if control is None else {"run_code": False}
    study = study_of_answers({"base": model, **graded, **what, **where})
    sets = [] if control is None else prompts_of(study, ())[0]
    check_several(sets)
    with progress_display() as progress:
        found = write_answers(study, out, make_alone(study, progress), progress=progress)
    left_out = [
        f"{counted(count, 'prompt')} {why}"
        for count, why in (
            (found.removed, "left out for text that --not-in names"),
            (found.empty, "answered with nothing"),
            (found.not_finite, "with logits that are NaN or infinite"),
        )
        if count
    ]
    if control is not None:
        write_control(found.rows, sets, study.grading, study.seed, control)
    out_console.print(
        f"{out}: {counted(len(found.rows), 'answer')}, {counted(found.tokens, 'token')} with the prompts"
        + (f" ({', '.join(left_out)})" if left_out else "")
        + f"\nuse it with --calibration file:{out} --calibration-samples {len(found.rows)}"
        + (f"; {control} has the control answers" if control is not None else ""),
        highlight=False,
        soft_wrap=True,
    )
