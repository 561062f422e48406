"""One difference between two models, and what it means for a comparison of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["harmless", "told", "confounding"]
Part = Literal["asked", "model"]
KINDS: tuple[Kind, ...] = ("harmless", "told", "confounding")


class Difference(NamedTuple):
    """Something that is not the same in two models.

    what: which thing. kind: `harmless` changes no answer; `told` belongs to compression, or is no part of a run, and a
    reader has to know it; `confounding` changes answers without being compression. base, other: the two values, in
    words. why: one sentence. part: `asked` is what a model is asked and where its answers end, which a run gives a
    checkpoint from base; `model` is everything else, which it keeps.
    """

    what: str
    kind: Kind
    base: str
    other: str
    why: str
    part: Part = "model"


def worst(found: Sequence[Difference]) -> Kind | None:
    """The gravest kind among differences; None where there are none."""
    return max((difference.kind for difference in found), key=KINDS.index, default=None)


def shown(value: Any, most: int = 60) -> str:
    """A value in a table's cell; – where there is none."""
    if value is None:
        return "–"
    text = value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many there are."""
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first}, … ({len(names):,})"
