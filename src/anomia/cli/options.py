"""Turn fields that declare a flag into command-line options. Each field defines its help and how it is read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from anomia.cli.run_options import RUN_FLAGS
from anomia.flags import PANELS, Flagged, Section, names
from anomia.study import FLAGS, Study

GivenFlags = dict[str, Any]
"""The values of the given flags, by field name."""
Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class FlagSections:
    """Marks a command's parameter: the flags of these sections replace it, and it receives their values.

    Flags of the command in sections that no parameter names are added to the last such parameter.
    """

    sections: tuple[Section, ...]

    def __init__(self, *sections: Section) -> None:
        object.__setattr__(self, "sections", sections)


def with_options(flagged: Mapping[str, Flagged]) -> Callable[[Command], Command]:
    """Decorate a command: replace its `Annotated[GivenFlags, FlagSections(…)]` parameters by the command's flags.

    >>> def run(*, asked: Annotated[GivenFlags, FlagSections("chat")]) -> None:
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
        if isinstance(each, FlagSections)
    }
    named = {section for each in sections.values() for section in each}
    mine = {name: each.flag.section for name, each in flagged.items() if command in each.flag.commands}
    places = {
        place: [name for section in each for name in mine if mine[name] == section]
        for place, each in sections.items()
    }
    # Keep the command's flags whose section no parameter names.
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


# The study checks its values itself, so that one message lists all faults.
_STUDY = {
    name: Flagged(
        replace(flag, least=None), Study.model_fields[name].annotation, Study.model_fields[name].default
    )
    for name, flag in FLAGS.items()
}
with_study_options = with_options(_STUDY | RUN_FLAGS)
"""For commands on studies and runs. A study's flag that isn't given keeps the study file's value."""


_METAVARS = {int: "N", Path: "PATH"}


def _parameter(name: str, field: Flagged, command: str) -> inspect.Parameter:
    flag = field.flag
    kind = flag.type or _type(field)
    info = typer.Option(
        flag.option(name),
        help=flag.help_on.get(command, flag.help).format(default=field.default, command=command),
        metavar=flag.metavar or _METAVARS.get(kind),
        min=flag.least,
        rich_help_panel=PANELS[flag.section],
    )
    kind = list[kind] if flag.several else kind  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _type(field: Flagged) -> type:
    """The type that Typer parses the option as; the field's own validation does the rest."""
    if _is_list(field):
        return str
    found = list(_parts(field.type))
    return next((kind for kind in (bool, int, float, Path) if kind in found), str)


def _is_list(field: Flagged) -> bool:
    return any(get_origin(part) in (tuple, Sequence) for part in _parts(field.type))


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all its type arguments, recursively."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _read(field: Flagged, given: Any) -> Any:
    """The value of a field; None if the flag isn't given."""
    flag = field.flag
    if given is None or given == []:
        return None
    if flag.read is not None:
        return flag.read(given)
    if flag.type is not None and Path not in _parts(field.type):
        return str(given)
    if _is_list(field):
        return given if flag.several else names(given)
    # A flag given once means a single study, not a matrix with one value.
    return given[0] if flag.several and len(given) == 1 else given
