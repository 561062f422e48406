"""Files of multiple-choice questions with their options, in the layouts of MMLU, ARC and others."""

from __future__ import annotations

from collections.abc import Sequence

from anomia.items.choices import SUFFIXES, read_choices, split_answer
from anomia.items.data_set import DataSet, as_path
from anomia.items.item import Question


def _read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    path, answer = split_answer(argument)
    return read_choices(as_path(path), answer=answer)


def _check(argument: str) -> str:
    return split_answer(argument)[0]


SET = DataSet(
    name="mc",
    title="questions with options",
    read=_read,
    path="needed",
    check=_check,
    endings=("", *SUFFIXES),
    holds="questions with options",
    options="brought",
)
