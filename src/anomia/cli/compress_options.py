"""What `anomia compress` and `anomia prune` share. `anomia.compress.options` defines their flags."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomia.cli.app import out_console
from anomia.cli.options import FlagSections, GivenFlags, with_options
from anomia.compress.options import FolderOptions, TextOptions
from anomia.flags import flagged

if TYPE_CHECKING:
    from anomia.compress.folder import FolderReport
    from anomia.running.progress import Progress

ModelArgument = Annotated[str, typer.Argument(help="A hub id, a folder or a .gguf file.", metavar="MODEL")]
OutArgument = Annotated[
    Path, typer.Argument(help="The new folder; an unfinished one is resumed.", metavar="OUT")
]
How = Annotated[GivenFlags, FlagSections("compression", "calibration")]

with_folder_options = with_options(flagged(FolderOptions))


def folder_options(given: GivenFlags) -> FolderOptions:
    """Make the options from the given flags; a flag that isn't given keeps its default."""
    of_text = {field.name for field in fields(TextOptions)}
    text = TextOptions(**{name: value for name, value in given.items() if name in of_text})
    return FolderOptions(text=text, **{name: value for name, value in given.items() if name not in of_text})


def with_answers(model: str, out: Path, options: FolderOptions, progress: Progress) -> FolderOptions:
    """Have the model write the answers that it is calibrated on, if the calibration source is answers:DATA.

    The same for control-answers:DATA.
    """
    from dataclasses import replace

    from anomia.compress.answers import is_control, is_of_answers
    from anomia.compress.sources import PASSAGES_A_LANGUAGE
    from anomia.errors import StudyError
    from anomia.items.sets import set_of
    from anomia.running.answers import answers_in, study_of_answers
    from anomia.running.control import control_in
    from anomia.running.model import make_alone

    text = options.text
    data = text.source.partition(":")[2]
    if not is_of_answers(text.source) or not data:
        return options
    control = is_control(text.source)
    found = set_of(data)
    if control and found is not None and found.runs_code:
        raise StudyError(
            f"calibration={text.source}: {found.name} is graded by running the programs that models write; write the "
            "control answers with anomia answers --run-code --control FILE and give file:FILE"
        )
    asked = {
        "base": model,
        "data": data,
        "limit": text.samples or PASSAGES_A_LANGUAGE,
        "dtype": options.dtype,
    }
    study = study_of_answers(asked | ({"languages": list(text.languages)} if text.languages else {}))
    base = make_alone(study, progress)

    def place(key: str) -> Path:
        return out.with_name(f"{out.name}-answers-{key}.jsonl")

    if control:
        file = control_in(place, study, base, grading=study.grading, progress=progress)
    else:
        file = answers_in(place, study, base, progress=progress)
    with file.open(encoding="utf-8") as rows:
        count = sum(1 for _ in rows)
    return replace(options, text=replace(text, source=f"file:{file}", samples=count))


def print_perplexity(report: FolderReport, compressed: str) -> None:
    """Print the perplexities before and after, if they were measured. compressed: the label of the second."""
    if report.dense and report.compressed:
        out_console.print(
            f"perplexity: {report.dense.value:.2f} dense, {report.compressed.value:.2f} {compressed}",
            highlight=False,
        )
