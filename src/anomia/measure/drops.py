"""What compression took: raw drops, normalized drops and the gap between open and choice.

Source: paper, sections 2.1 and 3.5. Accuracies are shares from 0 to 1, never per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Base must stand this far above the floor, or a share of what it had says nothing.
FEWEST_ABOVE_FLOOR = 0.10


class Accuracies(NamedTuple):
    """Right answers of base and of an arm to the same `n` items."""

    base_right: int
    arm_right: int
    n: int

    @property
    def base(self) -> float:
        """Base's accuracy."""
        return self.base_right / self.n

    @property
    def arm(self) -> float:
        """The arm's accuracy."""
        return self.arm_right / self.n


class OverLanguages(NamedTuple):
    """A figure over several languages.

    value: None where no language can be used. languages: those it is taken over.
    left_out: those that can't be used, by name: base is too near the floor, or there is no item.
    """

    value: float | None
    languages: tuple[str, ...]
    left_out: tuple[str, ...]


def chance(options: int) -> float:
    """The floor of choice: the accuracy of guessing among that many options. Generation's floor is 0."""
    return 1.0 / options


def raw_drop(base: float, arm: float) -> float:
    """Accuracy lost, in shares: 0.1 is ten points."""
    return base - arm


def above_floor(base: float, floor: float, *, margin: float = FEWEST_ABOVE_FLOOR) -> bool:
    """Whether base stands far enough above the floor for a normalized drop."""
    # 0.35 − 0.25 is a little less than 0.1 in binary.
    return base - floor >= margin - 1e-9


def normalized_drop(
    base: float, arm: float, *, floor: float, margin: float = FEWEST_ABOVE_FLOOR
) -> float | None:
    """The share of what base had above the floor that the arm lost; None where base had too little.

    >>> round(normalized_drop(0.900, 0.868, floor=chance(4)), 3)
    0.049
    """
    if not above_floor(base, floor, margin=margin):
        return None
    return (base - arm) / (base - floor)


def gap(open_drop: float | None, choice_drop: float | None) -> float | None:
    """ΔPR: the normalized drop of open − that of choice; None where either is missing."""
    if open_drop is None or choice_drop is None:
        return None
    return open_drop - choice_drop


def pool(by_language: Mapping[str, Accuracies]) -> Accuracies:
    """All items of all languages as one."""
    parts = by_language.values()
    return Accuracies(
        sum(part.base_right for part in parts),
        sum(part.arm_right for part in parts),
        sum(part.n for part in parts),
    )


def pooled_drop(by_language: Mapping[str, Accuracies], *, floor: float) -> OverLanguages:
    """Normalized drop of the accuracies over all items together. Weak languages stay in."""
    used = tuple(language for language, part in by_language.items() if part.n)
    empty = tuple(language for language, part in by_language.items() if not part.n)
    if not used:
        return OverLanguages(None, (), empty)
    everything = pool(by_language)
    return OverLanguages(normalized_drop(everything.base, everything.arm, floor=floor), used, empty)


def mean_drop(by_language: Mapping[str, Accuracies], *, floor: float) -> OverLanguages:
    """Mean over languages of the normalized drops; languages in which base is weak are left out, by name."""
    drops = {
        language: normalized_drop(part.base, part.arm, floor=floor) if part.n else None
        for language, part in by_language.items()
    }
    return _mean(drops)


def pooled_gap(
    open_: Mapping[str, Accuracies], choice: Mapping[str, Accuracies], *, floor: float
) -> OverLanguages:
    """ΔPR on pooled accuracies. `floor` is choice's."""
    opened, chosen = pooled_drop(open_, floor=0.0), pooled_drop(choice, floor=floor)
    left_out = tuple(dict.fromkeys(opened.left_out + chosen.left_out))
    used = tuple(language for language in opened.languages if language in chosen.languages)
    return OverLanguages(gap(opened.value, chosen.value), used, left_out)


def mean_gap(
    open_: Mapping[str, Accuracies], choice: Mapping[str, Accuracies], *, floor: float
) -> OverLanguages:
    """ΔPR as a mean over the languages in which both drops can be given. `floor` is choice's."""
    gaps: dict[str, float | None] = {}
    for language, part in open_.items():
        other = choice.get(language)
        if not part.n or other is None or not other.n:
            gaps[language] = None
            continue
        gaps[language] = gap(
            normalized_drop(part.base, part.arm, floor=0.0),
            normalized_drop(other.base, other.arm, floor=floor),
        )
    return _mean(gaps)


def _mean(values: Mapping[str, float | None]) -> OverLanguages:
    used = {language: value for language, value in values.items() if value is not None}
    left_out = tuple(language for language in values if language not in used)
    return OverLanguages(sum(used.values()) / len(used) if used else None, tuple(used), left_out)
