"""Describe faults in a study's settings in the terms of its file, without Pydantic's type names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from anomia.errors import nearest

_ALTERNATIVES = ("int", "constrained-int", "literal['auto']")
_TYPES = {
    "string_type": "a text", "int_type": "a whole number", "int_parsing": "a whole number",
    "int_from_float": "a whole number", "float_type": "a number", "float_parsing": "a number",
    "finite_number": "a number", "bool_type": "true or false", "bool_parsing": "true or false",
}  # fmt: skip
_BOUNDS = {"greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "more than"),
           "less_than_equal": ("le", "at most"), "less_than": ("lt", "less than")}  # fmt: skip


def faults_of(error: ValidationError, fields: Mapping[str, FieldInfo]) -> list[str]:
    """All faults of a study, one line each, with the nearest valid name for unknown keys. fields: a study's fields."""
    lines = []
    faults = error.errors()
    inside = {fault["loc"][0] for fault in faults if len(fault["loc"]) > 1}
    for fault in faults:
        if fault["type"] == "too_short" and fault["loc"][0] in inside:
            # A list with faulty entries is also reported as empty.
            continue
        # In a union, Pydantic appends the name of the alternative to the location.
        places = [str(part) for part in fault["loc"] if part not in _ALTERNATIVES]
        key, name = (places or [""])[0], ".".join(places)
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {name!r}; {nearest(name, fields)}")
        elif fault["type"] == "missing":
            lines.append(f"{name!r} is missing")
        elif len(fault["loc"]) > len(places):
            # There is one fault per alternative; the same line for each, so that duplicates can be dropped.
            lines.append(f"{name} is {fields[name].description}; got {_shown(fault['input'])}")
        else:
            lines.append(f"{name}{_fault(fault, key, fields)}")
    return lines


def _fault(fault: Any, key: str, fields: Mapping[str, FieldInfo]) -> str:
    """What is wrong with a value, as text that follows its name."""
    kind, given = fault["type"], _shown(fault["input"])
    examples = fields[key].examples if key in fields else None
    example = f", as in {key}: {examples[0]}" if examples else ""
    if kind in ("tuple_type", "dict_type"):
        return f" is a {'list' if kind == 'tuple_type' else 'mapping'}{example}; got {given}"
    if kind in ("too_short", "string_too_short"):
        return f" is empty; give at least one{example}"
    if kind in _TYPES:
        hint = (
            ' (YAML takes no, yes, on and off for true or false: write "no")'
            if isinstance(fault["input"], bool)
            else ""
        )
        return f" is {_TYPES[kind]}; got {given}{hint if kind == 'string_type' else ''}"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f" must be {words} {fault['ctx'][bound]}; got {given}"
    if kind == "literal_error":
        return f" is one of {fault['ctx']['expected']}; got {given}"
    colon = ": " if key else ""
    return f"{colon}{fault['msg'].removeprefix('Value error, ').removeprefix(f'{key}: ')}"


def _shown(value: Any) -> str:
    """A value for a message, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def in_one_message(lines: Iterable[str], place: str) -> str:
    """All faults in one message, without duplicates."""
    faults = list(dict.fromkeys(lines))
    head = f"study: {place} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:"
    return "\n".join([head, *(f"  - {line}" for line in faults)])
