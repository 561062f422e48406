"""The options that commands make of fields with a flag. What there is, and how it is read, is said at the field."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from anomia.flags import Flagged, Section, names
from anomia.study import FLAGS, Study

Settings = dict[str, Any]
"""Fields that were given, by name."""
Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Options:
    """In the signature of a command: here the flags of these sections come, and the parameter gets what they say.

    Flags of the command in sections that it doesn't name come with the last ones.
    """

    sections: tuple[Section, ...]

    def __init__(self, *sections: Section) -> None:
        object.__setattr__(self, "sections", sections)


def with_options(flagged: Mapping[str, Flagged]) -> Callable[[Command], Command]:
    """Makes a command whose parameters of `Annotated[Settings, Options(…)]` are the flags of its name.

    >>> def run(*, asked: Annotated[Settings, Options("chat")]) -> None:
    ...     print(asked)
    >>> with_study_options(run)(chat=True)
    {'chat': True}
    """
    return lambda function: _with_options(function, flagged)


def _with_options(function: Command, flagged: Mapping[str, Flagged]) -> Command:
    command = function.__name__
    own = inspect.signature(function, eval_str=True).parameters
    sections = {
        name: each.sections
        for name, parameter in own.items()
        for each in get_args(parameter.annotation)
        if isinstance(each, Options)
    }
    named = {section for each in sections.values() for section in each}
    mine = {name: each.flag.section for name, each in flagged.items() if command in each.flag.commands}
    places = {
        place: [name for section in each for name in mine if mine[name] == section]
        for place, each in sections.items()
    }
    # Flags of sections that the command does not place are still its own.
    places[list(places)[-1]] += [name for name in mine if mine[name] not in named]
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        parameters += (
            [_parameter(field, flagged[field], command) for field in places[name]]
            if name in places
            else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        )

    @functools.wraps(function)
    def called(**given: Any) -> None:
        for place, fields in places.items():
            values = {name: _read(flagged[name], given.pop(name, None)) for name in fields}
            given[place] = {name: value for name, value in values.items() if value is not None}
        function(**given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called


_STUDY = {
    name: Flagged(flag, Study.model_fields[name].annotation, Study.model_fields[name].default)
    for name, flag in FLAGS.items()
}
with_study_options = with_options(_STUDY)
"""For the commands that run a study: a flag that is not given leaves the study file's value."""


def _parameter(name: str, field: Flagged, command: str) -> inspect.Parameter:
    flag = field.flag
    info = typer.Option(
        flag.option(name),
        help=flag.help_on.get(command, flag.help).format(default=field.default),
        metavar=flag.metavar,
        min=flag.least,
    )
    kind = flag.type or _type(field)
    kind = list[kind] if flag.several else kind  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _type(field: Flagged) -> type:
    """What an option of this field is read as; what takes the values says which texts it takes."""
    if _is_list(field):
        return str
    found = list(_parts(field.type))
    return next((kind for kind in (bool, int, float, Path) if kind in found), str)


def _is_list(field: Flagged) -> bool:
    return any(get_origin(part) in (tuple, Sequence) for part in _parts(field.type))


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _read(field: Flagged, given: Any) -> Any:
    """The value of a field; None where the flag was not given."""
    flag = field.flag
    if given is None or given == []:
        return None
    if flag.read is not None:
        return flag.read(given)
    if flag.type is not None:
        return str(given)
    if _is_list(field):
        return given if flag.several else names(given)
    # Given once, it means one study and not a matrix of one.
    return given[0] if flag.several and len(given) == 1 else given
