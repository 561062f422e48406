"""How many items are needed to detect a dissociation or a gap.

Sources: the exact binomial power of Wilson's bound; for gaps, the delta method. Both assume independent items
and are multiplied by a design effect where items share passages.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from anomia.errors import StudyError
from anomia.measure.fates import FEWEST_BOTH_CORRECT
from anomia.measure.rates import Estimate

POWER = 0.8
# Items that a gap's interval costs beyond the delta method, because with few changed items it is the wider of two
# intervals. Validated by simulation at 80 % power for 77 to 223 items (`tests/measure/test_power.py`).
CAUTION = 25
# No data set here has more items than this.
MOST_ITEMS = 200_000
# If more than this many times the asked items are needed, the figure is at its limit and the number is meaningless.
MOST_TIMES = 50


class Transition(NamedTuple):
    """Assumed accuracies of base and arm, and the share of all items that only the arm gets right."""

    base: float
    arm: float
    gained: float = 0.02


def read_transition(text: str, gained: float, name: str) -> Transition:
    """Accuracies of base and arm from a text such as `0.45,0.35`. name: where the text came from.

    Raises:
        StudyError: the text is not two shares.
    """
    try:
        base, arm = (float(part) for part in text.split(","))
    except ValueError:
        raise StudyError(f"plan: {name} needs two accuracies, as in 0.45,0.35; got {text!r}") from None
    if not (0 <= base <= 1 and 0 <= arm <= 1):
        raise StudyError(f"plan: {name} takes two shares from 0 to 1, as in 0.45,0.35; got {text!r}")
    check_share(gained=gained)
    return Transition(base, arm, gained)


class NeededItems(NamedTuple):
    """Numbers of items that give the wanted power; None if no number does. why: the assumptions."""

    items: int | None
    both_correct: int | None
    why: str


def items_for_dissociation(
    rate: float,
    both_correct: float,
    *,
    against: float = 0.05,
    power: float = POWER,
    level: float = 0.95,
    design_effect: float = 1.0,
) -> NeededItems:
    """Items until Wilson's lower bound of the dissociation rate is above `against`, with this power.

    rate: the true dissociation rate. both_correct: share of the items that base gets right in open and in choice.
    """
    check_share(rate=rate, both_correct=both_correct, against=against, power=power)
    why = f"dissociation rate {rate:.3g} against {against:.3g}, {both_correct:.3g} of the items both-correct"
    if rate <= against or both_correct == 0:
        return NeededItems(None, None, why)
    z = float(stats.norm.ppf(0.5 + level / 2))
    # Reports give counts but no rate below this many.
    n, run = FEWEST_BOTH_CORRECT, 0
    while run < 10 and n < MOST_ITEMS:
        # Power is a sawtooth in n; ten sizes in a row must reach it.
        run = run + 1 if _dissociation_power(rate, n, against, z) >= power else 0
        n += 1
    if run < 10:
        return NeededItems(None, None, why)
    needed = math.ceil((n - 10) * design_effect)
    return NeededItems(math.ceil(needed / both_correct), needed, why)


def items_for_gap(
    open_: Transition,
    choice: Transition,
    *,
    floor: float,
    open_floor: float = 0.0,
    against: float = 0.0,
    power: float = POWER,
    level: float = 0.95,
    design_effect: float = 1.0,
) -> NeededItems:
    """Items until the gap's interval excludes `against`, with this power. floor, open_floor: of choice and of open.

    Open and choice are assumed to change independently; if they change together, fewer items suffice.
    """
    gap, variance = 0.0, 0.0
    for sign, part, least in ((1, open_, open_floor), (-1, choice, floor)):
        gap += sign * (part.base - part.arm) / _height(part, least)
        variance += _drop_variance(part, least)
    why = (
        f"gap {gap:.3g} against {against:.3g}: open {open_.base:.3g} to {open_.arm:.3g}, "
        f"choice {choice.base:.3g} to {choice.arm:.3g}"
    )
    if math.isclose(gap, against):
        return NeededItems(None, None, why)
    quantiles = stats.norm.ppf(0.5 + level / 2) + stats.norm.ppf(power)
    items = variance * float(quantiles) ** 2 / (gap - against) ** 2 + CAUTION
    return NeededItems(math.ceil(design_effect * items), None, why)


def items_needed(
    estimate: Estimate, against: float, *, power: float = POWER, level: float = 0.95
) -> int | None:
    """Items until an interval like this one excludes `against`, if the figure stays the same.

    From a pilot run: the half of the interval towards `against` shrinks with the square root of n. If all items of a
    rate are alike (0 or 1), more items are assumed to stay so, and the odds of Wilson's bound fall as 1/n.
    None if the figure equals `against`.
    """
    distance = estimate.value - against
    alike = _alike(estimate, against)
    if alike is not None:
        return alike
    half = estimate.value - estimate.low if distance > 0 else estimate.high - estimate.value
    if abs(distance) < 1e-9 or not math.isfinite(half):
        return None
    quantile = float(stats.norm.ppf(0.5 + level / 2))
    factor = (quantile + float(stats.norm.ppf(power))) / quantile
    return max(1, math.ceil(estimate.n * (factor * half / distance) ** 2))


def in_reach(items: int | None, asked: int) -> bool:
    """Whether the number of items that a figure needs is feasible, judged by the number that was asked."""
    return items is not None and items <= MOST_TIMES * max(1, asked)


def rounded(items: int) -> int:
    """A number of items, rounded up to two significant digits; a pilot's figure doesn't support more.

    >>> rounded(94), rounded(345), rounded(169_952)
    (94, 350, 170000)
    """
    unit: int = 10 ** max(0, len(str(items)) - 2)
    return math.ceil(items / unit) * unit


def _alike(estimate: Estimate, against: float) -> int | None:
    """Items for Wilson's interval of a rate of 0 or 1; None for other figures."""
    if estimate.method != "wilson" or not 0 < against < 1:
        return None
    if estimate.value == 0:
        bound, limit = estimate.high, against
    elif estimate.value == 1:
        bound, limit = 1 - estimate.low, 1 - against
    else:
        return None
    # A bound that excludes nothing has no finite odds.
    if bound >= 1:
        return None
    return max(1, math.ceil(estimate.n * bound / (1 - bound) * (1 - limit) / limit - 1e-9))


def _dissociation_power(rate: float, n: int, against: float, z: float) -> float:
    """The probability that Wilson's lower bound over n items is above `against`: a score test of `against`."""
    critical = math.floor(n * against + z * (n * against * (1 - against)) ** 0.5) + 1
    return float(stats.binom.sf(critical - 1, n, rate))


def _height(part: Transition, floor: float) -> float:
    if part.base <= floor:
        raise StudyError(f"base's accuracy {part.base:.3g} must lie above the floor {floor:.3g}")
    return part.base - floor


def _drop_variance(part: Transition, floor: float) -> float:
    """Variance of one item's influence on the normalized drop."""
    check_share(base=part.base, arm=part.arm, gained=part.gained)
    lost = part.base - part.arm + part.gained
    chances = np.array([part.base - lost, lost, part.gained, 1 - part.base - part.gained])
    if chances.min() < -1e-9:
        least, most = max(0.0, part.arm - part.base), min(part.arm, 1 - part.base)
        raise StudyError(
            f"accuracies {part.base:.3g} and {part.arm:.3g} do not allow a share of {part.gained:.3g} "
            f"gained items: choose it between {least:.3g} and {most:.3g}"
        )
    height = _height(part, floor)
    before, after = np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])
    influence = (part.arm - floor) * (before - part.base) / height**2 - (after - part.arm) / height
    return float(chances @ influence**2)


def check_share(**shares: float) -> None:
    """Raise `StudyError` for a share that isn't from 0 to 1; its keyword names it."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise StudyError(f"{name} is a share from 0 to 1, got {value:g}")
