"""Which arm of a run a user means: one rule for every command and for the API.

A name means, in this order: the arm of exactly this name; the one whose specification it is in other words
(`wanda:0.50`); the checkpoint with this model; the only checkpoint whose model ends in this name (a folder's last part,
the name of a model in memory). Where a run has both, `checkpoint:` comes before `packaged:`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath

from anomia.compress.spec import parse_arm
from anomia.compress.steps import Arm, Checkpoint
from anomia.errors import RunError, StudyError, nearest


def find_arm(name: str, arms: Iterable[str], *, where: str) -> str:
    """The arm of a run that is meant by `name`.

    >>> find_arm("my-int4", ["wanda:0.5", "checkpoint:./made/my-int4"], where="items: RUN")
    'checkpoint:./made/my-int4'

    Args:
        name: as a user wrote it.
        arms: the names of the run's arms.
        where: how the message of an error begins: the command and what was looked through.

    Raises:
        RunError: there is no such arm, with the nearest name, or the name may mean several.
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
    """The arms that a name means, by each rule in turn. models: of the arms that are checkpoints."""
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
        # An arm of another tool's evaluation is called as its folder is.
        return None


def _checkpoint(arm: str) -> Checkpoint | None:
    """The checkpoint that an arm is, where nothing is done to it."""
    parsed = _parsed(arm)
    if parsed is None or len(parsed.steps) != 1:
        return None
    (step,) = parsed.steps
    return step if isinstance(step, Checkpoint) else None


def _same_place(model: str, name: str) -> bool:
    return model == name or (bool(name) and PurePath(model) == PurePath(name))


def _same_end(model: str, name: str) -> bool:
    # Importing it takes seconds that most look-ups need not wait for.
    from anomia.models.memory import given_name

    return name == (given_name(model) or PurePath(model).name)
