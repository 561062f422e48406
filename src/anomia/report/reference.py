"""Which arms are compressed models, and which are base again under harmless noise: the reference for the others."""

from __future__ import annotations

from collections.abc import Iterable

from anomia.compress.spec import is_null


def nulls(arms: Iterable[str]) -> list[str]:
    """The null arms among some, in order."""
    return [arm for arm in arms if is_null(arm)]


def candidates(arms: Iterable[str]) -> list[str]:
    """The arms that are judged: all but null arms, or these where a run has no other."""
    every = list(arms)
    return [arm for arm in every if not is_null(arm)] or every
