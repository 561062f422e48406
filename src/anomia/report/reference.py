"""Which arms are compressed models, and which are null arms: base under harmless noise, as the reference."""

from __future__ import annotations

from collections.abc import Iterable

from anomia.compress.spec import is_null


def nulls(arms: Iterable[str]) -> list[str]:
    """The null arms among these, in order."""
    return [arm for arm in arms if is_null(arm)]


def candidates(arms: Iterable[str]) -> list[str]:
    """The arms to judge: all but null arms, or all if the run has only null arms."""
    every = list(arms)
    return [arm for arm in every if not is_null(arm)] or every


def to_read(arms: Iterable[str]) -> list[str]:
    """All arms, null arms last: the first one is what a reader sees who chose none.

    >>> to_read(["null:float32", "wanda:0.5"])
    ['wanda:0.5', 'null:float32']
    """
    return sorted(arms, key=is_null)
