"""The options that commands make of a study's fields. What there is, and how it is read, is said in `anomia.study`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import typer

from anomia.flags import Flag, Section, names
from anomia.study import FLAGS, Study

Settings = dict[str, Any]
"""Fields of a study that were given, by name."""


@dataclass(frozen=True, slots=True)
class Options:
    """In the signature of a command: here the flags of these sections come, and the parameter gets what they say.

    Flags of the command in sections that it doesn't name come with the last ones.
    """

    sections: tuple[Section, ...]

    def __init__(self, *sections: Section) -> None:
        object.__setattr__(self, "sections", sections)


def with_study_options(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters of `Annotated[Settings, Options(…)]` are the study's flags of its name.

    >>> def run(*, asked: Annotated[Settings, Options("chat")]) -> None:
    ...     print(asked)
    >>> with_study_options(run)(chat=True)
    {'chat': True}
    """
    command = function.__name__
    own = inspect.signature(function, eval_str=True).parameters
    sections = {
        name: each.sections
        for name, parameter in own.items()
        for each in get_args(parameter.annotation)
        if isinstance(each, Options)
    }
    named = {section for each in sections.values() for section in each}
    mine = {name: flag.section for name, flag in FLAGS.items() if command in flag.commands}
    places = {
        place: [name for section in each for name in mine if mine[name] == section]
        for place, each in sections.items()
    }
    # Flags of sections that the command does not place are still its own.
    places[list(places)[-1]] += [name for name in mine if mine[name] not in named]
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        parameters += (
            [_parameter(field, FLAGS[field], command) for field in places[name]]
            if name in places
            else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        )

    @functools.wraps(function)
    def called(**given: Any) -> None:
        for place, fields in places.items():
            values = {name: _read(name, given.pop(name, None)) for name in fields}
            given[place] = {name: value for name, value in values.items() if value is not None}
        function(**given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called


def _parameter(name: str, flag: Flag, command: str) -> inspect.Parameter:
    default = Study.model_fields[name].default
    info = typer.Option(
        flag.option(name),
        help=flag.help_on.get(command, flag.help).format(default=default),
        metavar=flag.metavar,
    )
    kind = flag.type or _type(name)
    kind = list[kind] if flag.several else kind  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _type(name: str) -> type:
    """What an option of this field is read as; the study itself says which texts it takes."""
    if _is_list(name):
        return str
    found = list(_parts(Study.model_fields[name].annotation))
    return next((kind for kind in (bool, int, float) if kind in found), str)


def _is_list(name: str) -> bool:
    return any(get_origin(part) is tuple for part in _parts(Study.model_fields[name].annotation))


def _parts(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _read(name: str, given: Any) -> Any:
    """The value of a field; None where the flag was not given."""
    flag = FLAGS[name]
    if given is None or given == []:
        return None
    if flag.read is not None:
        return flag.read(given)
    if flag.type is not None:
        return str(given)
    if _is_list(name):
        return given if flag.several else names(given)
    # Given once, it means one study and not a matrix of one.
    return given[0] if flag.several and len(given) == 1 else given
