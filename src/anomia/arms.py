"""Find the arm of a run that a user means, by one rule for all commands and the API.

A name matches, in this order: the arm with exactly this name; the arm with an equivalent specification
(`wanda:0.50`); the checkpoint with this model; the only checkpoint whose model ends in this name (a folder's last
part, or the name of a model in memory). `checkpoint:` comes before `packaged:` if a run has both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath

from anomia.compress.spec import parse_arm
from anomia.compress.steps import Arm, Checkpoint
from anomia.errors import RunError, StudyError, nearest


def find_arm(name: str, arms: Iterable[str], *, where: str) -> str:
    """The arm of a run that `name` means.

    >>> find_arm("my-int4", ["wanda:0.5", "checkpoint:./made/my-int4"], where="items: RUN")
    'checkpoint:./made/my-int4'

    Args:
        name: as the user wrote it.
        arms: the names of the run's arms.
        where: the start of error messages: the command and the run.

    Raises:
        RunError: no arm matches (the message suggests the nearest name), or several do.
    """
    known = list(arms)
    if name in known:
        return name
    models = {arm: found for arm in known if (found := _checkpoint(arm)) is not None}
    for fitting in _readings(name, known, models):
        if len(fitting) > 1:
            raise RunError(f"{where}: {name!r} may be any of {', '.join(fitting)}; name one of them in full")
        if fitting:
            return fitting[0]
    also = [found.model for found in models.values()]
    raise RunError(f"{where} has no arm {name!r}; {nearest(name, [*known, *also])}")


def _readings(name: str, known: Sequence[str], models: Mapping[str, Checkpoint]) -> Iterator[list[str]]:
    """The matching arms by each rule in turn. models: the arms that are checkpoints."""
    written = str(_parsed(name))
    yield [arm for arm in known if arm == written]
    for alike in (_same_place, _same_end):
        for packaged in (False, True):
            yield [
                arm
                for arm, found in models.items()
                if found.packaged is packaged and alike(found.model, name)
            ]


def _parsed(text: str) -> Arm | None:
    try:
        return parse_arm(text)
    except StudyError:
        # Imported arms are named after their folder, which need not be a specification.
        return None


def _checkpoint(arm: str) -> Checkpoint | None:
    """The checkpoint of an arm that has no other steps, or None."""
    parsed = _parsed(arm)
    if parsed is None or len(parsed.steps) != 1:
        return None
    (step,) = parsed.steps
    return step if isinstance(step, Checkpoint) else None


def _same_place(model: str, name: str) -> bool:
    return model == name or (bool(name) and PurePath(model) == PurePath(name))


def _same_end(model: str, name: str) -> bool:
    # This import takes seconds, and most look-ups don't need it.
    from anomia.models.memory import given_name

    return name == (given_name(model) or PurePath(model).name)
