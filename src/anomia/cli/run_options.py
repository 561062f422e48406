"""Flags of commands on runs that are not settings of a study: where a run goes, and how its results are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from anomia.files import place
from anomia.flags import Flag, Flagged, names

if TYPE_CHECKING:
    from anomia.measure.verdict import Thresholds


def _excluded(text: str) -> tuple[str, ...]:
    from anomia.measure.results import read_exclude

    return read_exclude([] if text == "none" else names(text))


def _thresholds(settings: Sequence[str]) -> Thresholds:
    from anomia.measure.verdict import read_thresholds

    return read_thresholds(settings)


_Flag = partial(Flag, section="running")

RUN_FLAGS = {
    "thresholds": Flagged(
        _Flag(
            name="--threshold",
            help="Change a threshold of the verdicts, such as hold=0.05; repeatable.",
            metavar="NAME=VALUE",
            several=True,
            read=_thresholds,
            commands=("run", "compare", "show"),
        ),
        str,
    ),
    "exclude": Flagged(
        _Flag(
            help="Exclude flagged items from all results: gold_in_question, gold_over_limit (comma-separate several), "
            "or none.",
            metavar="A,B",
            read=_excluded,
            commands=("run", "compare", "show", "report", "gate"),
        ),
        str,
    ),
    "as_packaged": Flagged(
        _Flag(
            help="Also measure every checkpoint with its own tokenizer, chat template and end tokens, as its users "
            "would run it.",
            commands=("run", "compare"),
        ),
        bool,
    ),
    "out": Flagged(
        _Flag(
            help="The run folder, or an address such as s3://bucket/run; an existing run is resumed "
            "(default anomia-{command}).",
            metavar="RUN",
            read=place,
            commands=("run", "compare", "demo"),
        ),
        str,
    ),
    "reuse": Flagged(
        _Flag(
            help="An earlier run whose measurements of base are reused where the settings match; repeatable.",
            metavar="RUN",
            several=True,
            read=lambda given: [place(run) for run in given],
            commands=("run", "compare"),
        ),
        str,
    ),
    "track": Flagged(_Flag(help="Log progress to wandb, mlflow or trackio.", metavar="TRACKER"), str),
    "ray": Flagged(
        _Flag(
            help="Distribute the work with Ray: on this machine or, with ADDRESS or auto, on a cluster.",
            metavar="[ADDRESS]",
        ),
        str,
    ),
    "ray_worker": Flagged(
        _Flag(
            help="Resources per worker (default: one GPU if there are any, else one CPU).",
            metavar="cpus=N,gpus=N",
        ),
        str,
    ),
}
"""By the names that `cli.run.execute` and `read_results` have for their values."""
