"""Command-line flags, declared at the fields of a study or of other options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, cast, get_args, get_type_hints

Section = Literal[
    "models",
    "questions",
    "draw",
    "running",
    "machine",
    "asking",
    "calibration",
    "chat",
    "code",
    "compression",
]
"""`--help` lists a section's flags together, in the order of their fields; each command places its sections."""

PANELS: Mapping[Section, str] = {
    "models": "Models",
    "questions": "Questions",
    "draw": "Questions",
    "running": "Run and results",
    "machine": "Machine",
    "asking": "Probes",
    "calibration": "Calibration text",
    "chat": "Chat",
    "code": "Code and revision",
    "compression": "Compression",
}
"""The headings of the sections in `--help`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag. It has its field's name, with `-` for `_`.

    section: its place in `--help`. help: `{default}` stands for the field's default, `{command}` for the command.
    metavar: None only for a switch, a number (N) and a path (PATH).
    name: a different name. commands: the commands that have it. help_on: other help texts, by command.
    several: whether it can be repeated, once per value; otherwise a list is one comma-separated text.
    type: the type to parse, if not the field's. read: converts the parsed value to the field's value.
    least: the smallest valid number, if the field doesn't check it.
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
        """The command-line words that set a field to a value.

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
        """The flag's name for a field."""
        return self.name or f"--{name.replace('_', '-')}"


class Flagged(NamedTuple):
    """A field with a flag. type: its annotation. default: for `--help`."""

    flag: Flag
    type: Any
    default: Any = None


def flagged(options: type) -> dict[str, Flagged]:
    """The fields of a dataclass that have a flag, by name and in order, including those of nested dataclasses."""
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
    """Split a comma-separated text.

    >>> names("open, cued")
    ['open', 'cued']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def whole(text: str) -> int | str:
    """A text as a whole number if possible; otherwise unchanged, for the study to refuse."""
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text
