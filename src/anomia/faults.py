"""What is wrong with the settings of a study, in the words of its file: no type of the validator's reaches a user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from anomia.errors import nearest

_ALTERNATIVES = ("int", "constrained-int", "literal['auto']")
_WORDED = {"batch_size": "auto or a whole number from 1"}
_EXAMPLES = {
    "arms": "[wanda:0.5]", "languages": "[english, swahili]", "probes": "[open, choice, rank]", "stop": r'["\n"]',
    "prompts": '{open: "{context} {question}"}',
}  # fmt: skip
_TYPES = {
    "string_type": "a text", "int_type": "a whole number", "int_parsing": "a whole number",
    "int_from_float": "a whole number", "float_type": "a number", "float_parsing": "a number",
    "finite_number": "a number", "bool_type": "true or false", "bool_parsing": "true or false",
}  # fmt: skip
_BOUNDS = {"greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "more than"),
           "less_than_equal": ("le", "at most"), "less_than": ("lt", "less than")}  # fmt: skip


def faults_of(error: ValidationError, known: Iterable[str]) -> list[str]:
    """Every fault of a study, a line each, with the nearest valid name. known: the keys that a study may have."""
    lines = []
    faults = error.errors()
    inside = {fault["loc"][0] for fault in faults if len(fault["loc"]) > 1}
    for fault in faults:
        if fault["type"] == "too_short" and fault["loc"][0] in inside:
            # What is wrong in a list leaves it empty, too.
            continue
        # What stands behind a name is one of the types that a value may have.
        places = [str(part) for part in fault["loc"] if part not in _ALTERNATIVES]
        key, name = (places or [""])[0], ".".join(places)
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown key {name!r}; {nearest(name, known)}")
        elif fault["type"] == "missing":
            lines.append(f"{name!r} is missing")
        elif name in _WORDED:
            lines.append(f"{name} is {_WORDED[name]}; got {_shown(fault['input'])}")
        else:
            lines.append(f"{name}{_fault(fault, key)}")
    return lines


def _fault(fault: Any, key: str) -> str:
    """What is wrong with a value, as it goes on behind its name."""
    kind, given = fault["type"], _shown(fault["input"])
    if kind in ("tuple_type", "dict_type"):
        return f" is a {'list' if kind == 'tuple_type' else 'mapping'}, as in {key}: {_EXAMPLES[key]}; got {given}"
    if kind in ("too_short", "string_too_short"):
        return f" is empty; give at least one{f', as in {key}: {_EXAMPLES[key]}' if key in _EXAMPLES else ''}"
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
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def in_one_message(lines: Iterable[str], place: str) -> str:
    """All faults in one message, each once."""
    faults = list(dict.fromkeys(lines))
    head = f"study: {place} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:"
    return "\n".join([head, *(f"  - {line}" for line in faults)])
