"""A difference between two models, and what it means for comparing their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Severity = Literal["harmless", "noted", "confounding"]
DiffersIn = Literal["asked", "model"]
KINDS: tuple[Severity, ...] = ("harmless", "noted", "confounding")


class Difference(NamedTuple):
    """A difference between two models besides their weights."""

    what: str
    kind: Severity
    """`harmless`: changes no answer; `noted`: part of compression; `confounding`: changes answers, isn't compression.
    """
    base: str
    other: str
    why: str
    part: DiffersIn = "model"
    """`asked`: prompts and end tokens, which a run takes from base for a checkpoint; `model`: all else."""


def worst(found: Sequence[Difference]) -> Severity | None:
    """The most serious kind among differences; None if there are none."""
    return max((difference.kind for difference in found), key=KINDS.index, default=None)


def shown(value: Any, most: int = 60) -> str:
    """A value as the text of a table cell, at most `most` characters long; – for None."""
    if value is None:
        return "–"
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first `most` names, and the total number if there are more."""
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first}, … ({len(names):,})"
