"""How a field of a study, or of other options, is written on the command line: said where the field is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, cast, get_args, get_type_hints

Section = Literal[
    "models", "questions", "draw", "machine", "asking", "calibration", "chat", "code", "compression"
]
"""Flags of a section are together in `--help`, in the order of the study's fields; commands say where each section is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag, called as its field is, with `-` for `_`.

    section: where `--help` shows it. help: `{default}` in it becomes the field's default. metavar: None shows the type.
    name: where it differs from the field's. commands: those that have it. help_on: its text on some of them.
    several: it may be given several times, once for each value. Without it a list is one text with commas.
    type: of the text, where it is not the field's own. read: from that to what the field takes.
    least: the smallest number that is read, where the field doesn't check it itself.
    """

    section: Section
    help: str
    metavar: str | None = None
    name: str = ""
    commands: tuple[str, ...] = ("run",)
    help_on: Mapping[str, str] = field(default_factory=dict)
    several: bool = False
    type: type | None = None
    read: Callable[[Any], Any] | None = None
    least: int | None = None

    def words(self, name: str, value: Any) -> list[str]:
        """The words of a command that give a field its value.

        >>> Flag(section="questions", help="").words("data_folder", "a b")
        ['--data-folder', 'a b']
        """
        option = self.option(name)
        if value is True:
            return [option]
        if not isinstance(value, list | tuple):
            return [option, str(value)]
        if self.several:
            return [word for each in value for word in (option, str(each))]
        return [option, ",".join(map(str, value))]

    def option(self, name: str) -> str:
        """The flag of a field."""
        return self.name or f"--{name.replace('_', '-')}"


class Flagged(NamedTuple):
    """A field that has a flag. type: its annotation. default: for `--help`."""

    flag: Flag
    type: Any
    default: Any


def flagged(options: type) -> dict[str, Flagged]:
    """The fields of a dataclass that have a flag, by name and in order; those of a dataclass in it where it comes."""
    types = get_type_hints(options, include_extras=True)
    found: dict[str, Flagged] = {}
    for each in fields(options):
        kind = types[each.name]
        if is_dataclass(kind):
            found |= flagged(cast(type, kind))
        for part in get_args(kind):
            if isinstance(part, Flag):
                found[each.name] = Flagged(part, get_args(kind)[0], each.default)
    return found


def names(text: str) -> list[str]:
    """What a text with commas names.

    >>> names("open, cued")
    ['open', 'cued']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(text: str) -> int | str:
    """A number where it is one; anything else is left for the study to refuse."""
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text
