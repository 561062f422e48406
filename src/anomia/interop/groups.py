"""Sort the logs of all models into the pairs of tasks to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from anomia.errors import DataError
from anomia.interop.join import best_key
from anomia.interop.pairs import TaskFamily, TaskPair, pair_up
from anomia.interop.samples import SampleFile
from anomia.models.difference import listed
from anomia.probes import FORMATS, AnswerFormat

_NAMED = 4
_KINDS: Mapping[AnswerFormat, str] = {"open": "generation", "choice": "multiple-choice"}


def pairs_of(
    models: Mapping[str, Sequence[SampleFile]], families: Sequence[TaskFamily]
) -> tuple[list[TaskPair], list[str]]:
    """The pairs to compare, and for each log that is in none why; base comes first.

    Tasks of no family are taken together, if base's share questions.

    Raises:
        DataError: there is no pair.
    """
    found = pair_up(models, families)
    pairs = list(found.pairs)
    usable = {
        model: [file for file in files if file.task not in found.unusable]
        for model, files in found.rest.items()
    }
    reasons = [f"{task}: {reason}" for task, reason in found.unusable.items()]
    if found.spare:
        reasons.append(f"another task asks the same documents: {listed(found.spare, 8)}")
    complete = all({file.form for file in files} == set(FORMATS) for files in usable.values())
    shares = complete and bool(best_key(next(iter(usable.values()))))
    if shares or (complete and not pairs and not found.lacking):
        return [*pairs, TaskPair(None, usable)], reasons
    if not pairs:
        _refuse(models, usable, [*reasons, *found.lacking])
    lonely = dict.fromkeys(file.task for files in usable.values() for file in files)
    unpaired = [name for name in lonely if not any(name in each for each in found.lacking)]
    reasons += _short(found.lacking)
    if unpaired:
        reasons.append(f"no task asks the same documents in the other format: {listed(unpaired, 8)}")
    return pairs, reasons


def _refuse(
    models: Mapping[str, Sequence[SampleFile]],
    usable: Mapping[str, Sequence[SampleFile]],
    why: Sequence[str],
) -> NoReturn:
    """Say what is missing.

    Raises:
        DataError: always.
    """
    for model, files in usable.items():
        for form, kind in _KINDS.items():
            if not any(file.form == form for file in files):
                given = ", ".join(str(file.path) for file in models[model])
                because = f". {'; '.join(_short(why))}" if why else ""
                raise DataError(
                    f"import: {model} has no samples of a {kind} task that can be used; it has "
                    f"{given or 'none'}{because}"
                )
    raise DataError(f"import: no two tasks of base ask the same documents: {'; '.join(_short(why))}")


def _short(clauses: Sequence[str]) -> list[str]:
    """The first clauses, and how many more there are: a benchmark has a task for each of its subjects."""
    more = [f"and {len(clauses) - _NAMED} more like these"] if len(clauses) > _NAMED else []
    return [*clauses[:_NAMED], *more]
