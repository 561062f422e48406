"""Find differences between how one model was asked in the two formats, which a gap could come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from anomia.errors import DataError
from anomia.interop.run_differences import difference
from anomia.interop.samples import SampleFile
from anomia.interop.settings import MODEL_PATHS, Settings, settings_of
from anomia.models.difference import Difference

# Settings of the task itself, which differ between a generation and a multiple-choice task.
_OF_THE_TASK = ("generation_kwargs", "gen_kwargs", "repeats", "filter_list", "metric_list", "task version")
# If one of these differs, so do the weights.
_WEIGHTS = ("model_sha", "model_num_parameters", "peft_sha", "delta_sha")
_WEIGHT_ARGUMENTS = ("revision", "subfolder", "peft", "delta", "gguf_file")


class SideDifference(NamedTuple):
    """A setting that differs between the formats, and the number of pairs in which it does. base: in choice."""

    difference: Difference
    pairs: int


def refuse_two_models(tool: str, model: str, files: Sequence[SampleFile]) -> None:
    """Refuse logs of one model that say that they are of two.

    Raises:
        DataError: two results files name different weights.
    """
    first: tuple[SampleFile, Settings] | None = None
    for file in files:
        settings = settings_of(tool, file)
        if settings is None:
            continue
        if first is None:
            first = file, settings
        elif (unlike := _weights_apart(first[1], settings)) is not None:
            raise DataError(
                f"import: the logs of {model} are of two models: {first[0].task} has {unlike[0]} and {file.task} has "
                f"{unlike[1]}; give logs of one model ({first[0].path}, {file.path})"
            )


def between_formats(tool: str, pairs: Sequence[Sequence[SampleFile]]) -> tuple[SideDifference, ...]:
    """Settings that differ between the multiple-choice and the generation log of each pair, except the task's own."""
    found: Counter[Difference] = Counter()
    for files in pairs:
        opened, chosen = (
            next((settings_of(tool, file) for file in files if file.form == form), None)
            for form in ("open", "choice")
        )
        if opened is not None and chosen is not None:
            found.update(list(dict.fromkeys(_apart(chosen, opened))))
    return tuple(SideDifference(each, count) for each, count in found.items())


def without_settings(tool: str, pairs: Sequence[Sequence[SampleFile]]) -> int:
    """The number of pairs in which no results file says how one of the formats was asked."""
    return sum(any(settings_of(tool, file) is None for file in files) for files in pairs)


def _apart(chosen: Settings, opened: Settings) -> Iterator[Difference]:
    names = dict.fromkeys([*chosen.arguments, *opened.arguments])
    rows = [(name, chosen.arguments.get(name), opened.arguments.get(name)) for name in names]
    rows += [
        (name, value, opened.others[name])
        for name, value in chosen.others.items()
        if name in opened.others and name not in _OF_THE_TASK
    ]
    for name, one, other in rows:
        if one != other and (found := difference(name, one, other)).kind != "harmless":
            yield found


def _weights_apart(one: Settings, other: Settings) -> tuple[str, str] | None:
    """What two runs say about their weights, if it can't be the same."""
    for name in (*MODEL_PATHS, *_WEIGHT_ARGUMENTS):
        mine, its = one.arguments.get(name), other.arguments.get(name)
        if mine != its and (name in _WEIGHT_ARGUMENTS or _place(mine) != _place(its)):
            return f"{name} {mine}", f"{name} {its}"
    for name in _WEIGHTS:
        values = one.others.get(name), other.others.get(name)
        if None not in values and values[0] != values[1]:
            return f"{name} {values[0]}", f"{name} {values[1]}"
    return None


def _place(path: str | None) -> str | None:
    """The last part of a model's path: the same model may have been moved."""
    return path and path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
