"""Find calibration passages that share text with evaluation passages.

The rule is that of language-model decontamination (Brown et al. 2020, Appendix C): two passages overlap if they share
13 consecutive words after normalization. Scripts without spaces are compared by 30 consecutive characters, about the
same amount of text. A shorter evaluation passage counts as shared if the calibration passage contains all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from anomia.grade import normalize

WORDS = 13
CHARACTERS = 30
SHORTEST = 5

_UNSPACED = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_UNITS = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_ONE_UNSPACED = re.compile(f"[{_UNSPACED}]")


class Sieve(NamedTuple):
    """The hashes of the n-grams of all evaluation passages, by n."""

    grams: dict[int, frozenset[int]]

    def catches(self, text: str) -> bool:
        """Whether a passage shares an n-gram with an evaluation passage."""
        units = _units(text)
        return any(not known.isdisjoint(_grams(units, length)) for length, known in self.grams.items())


def build_sieve(passages: Iterable[str]) -> Sieve:
    """Index evaluation passages, skipping those with fewer than five words or characters."""
    grams: dict[int, set[int]] = {}
    for passage in passages:
        units = _units(passage)
        length = min(_gram_length(units), len(units))
        if length >= SHORTEST:
            grams.setdefault(length, set()).update(_grams(units, length))
    return Sieve({length: frozenset(known) for length, known in grams.items()})


def _units(text: str) -> list[str]:
    return _UNITS.findall(normalize(text))


def _gram_length(units: list[str]) -> int:
    unspaced = sum(1 for unit in units if _ONE_UNSPACED.fullmatch(unit))
    return CHARACTERS if 2 * unspaced > len(units) else WORDS


def _grams(units: list[str], length: int) -> Iterator[int]:
    for start in range(len(units) - length + 1):
        yield hash(tuple(units[start : start + length]))
