"""Inputs that are wrong in one place: far more of them get past the first check than random bytes do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

NASTY_TEXTS = st.sampled_from(
    [
        "", " ", "\x00", "a\x00b", "\ud800", "\udfff x", "\ufeff", "\u202e", "[bold red]", "[/]", "{", "%s", "..",
        "/", "~", "\n", "\r\n", "=1+1", "<script>", "ก" * 300, "x" * 5000, "٣", "1e400", "-0", "base", "null",
    ]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    NASTY_TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | NASTY_TEXTS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path, *(place for key in keys for place in _places(value[key], (*path, key)))]


@st.composite
def mutated(draw: Callable[[Any], Any], sound: Any) -> Any:
    """A copy of a sound value with one to three places replaced, removed or doubled."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(value)))
        if not place:
            if draw(st.integers(0, 9)) == 0:
                return draw(VALUES)
            continue
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        deed = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if deed == "replace":
            holder[place[-1]] = draw(VALUES)
        elif deed == "remove":
            del holder[place[-1]]
        elif isinstance(holder, list):
            holder.insert(place[-1], copy.deepcopy(holder[place[-1]]))
    return value


@st.composite
def damaged(draw: Callable[[Any], Any], content: bytes) -> bytes:
    """Bytes cut off, with some changed, or with something put between."""
    deed = draw(st.sampled_from(["cut", "change", "insert", "random"]))
    if deed == "random":
        return draw(st.binary(max_size=200))
    at = draw(st.integers(0, len(content)))
    if deed == "cut":
        return content[:at]
    if deed == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at:]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def as_json(value: Any) -> bytes:
    """JSON as other programs write it: NaN, lone surrogates as escapes and huge numbers included."""
    return json.dumps(value).encode()
