"""What the ordering items decide: which order leads, and which units of its place are needed.

Both choices are made on the items that gave the order, so that those of the other half only judge them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from anomia.locate.cases import LocatedItem
from anomia.locate.curves import ATTRIBUTION, GOAL, HALF, MOVED
from anomia.locate.pairs import WeightUnit
from anomia.locate.restore import MixtureReader, fill, share_of, without_idle

LEADING = (ATTRIBUTION, MOVED)
"""The orders that may lead; the first does if both need the same."""


def returned_by(reader: MixtureReader, cases: Sequence[LocatedItem]) -> Callable[[Sequence[str]], float]:
    """How much of some items comes back with base's weights in some units."""

    def returned(names: Sequence[str]) -> float:
        return float(reader.read(names, cases)["correct"].mean() or 0.0)  # type: ignore[arg-type]

    return returned


def pick_leader(
    returned: Callable[[Sequence[str]], float],
    orders: Mapping[str, Sequence[Sequence[str]]],
    units: Sequence[WeightUnit],
    budgets: Sequence[float],
    *,
    known: bool,
    advance: Callable[[], None] = lambda: None,
) -> tuple[str, dict[str, float]]:
    """The order that brings half of the ordering items back with the fewest weights, and what each needs.

    Only budgets that could be a place are tried; an order that needs more is given as infinite. Where ‖ΔX‖ isn't known
    for all units, attribution leads.
    """
    found = {}
    for name in LEADING:
        if name == MOVED and not known:
            continue
        order, found[name] = orders[name][0], math.inf
        sets = dict.fromkeys(fill(order, units, budget) for budget in budgets if budget <= GOAL)
        for names in [*sets, tuple(order[:1])]:
            share = share_of(names, units)
            if names and share < found[name] and returned(names) >= HALF:
                found[name] = share
        advance()
    return min(found, key=lambda name: found[name]), found


def needed_units(
    returned: Callable[[Sequence[str]], float], place: Sequence[str], *, tries: int
) -> tuple[str, ...]:
    """The units of a place, in its order, that bring the ordering items back; the others bring nothing back there."""
    return without_idle(place, returned, tries=tries) if len(place) > 1 else tuple(place)
