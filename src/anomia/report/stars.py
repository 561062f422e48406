"""When an interval gets a star: where that tells it from its neighbours, and one sentence where it would not."""

from __future__ import annotations

import re
from typing import NamedTuple

from anomia.measure.rates import CHECKED_EVENTS, CHECKED_ITEMS

STARRED = "* too few items: interval not validated."
_FEW = f"fewer than {CHECKED_ITEMS} items or {CHECKED_EVENTS} changes"
ALL_FEW = f"Each figure rests on {_FEW}: these intervals were not validated by simulation."
MOST_FEW = f"Most figures rest on {_FEW}: their intervals were not validated by simulation."
# `[18, 39]` or `\[18, 39]` as an interval is written, and the star behind it.
_INTERVAL = re.compile(r"(\[−?[\d,.]+, −?[\d,.]+\])(\*?)")


class Stars(NamedTuple):
    """kept: whether the stars stay. note: the sentence that explains them, or what stands in for them."""

    kept: bool
    note: str


def stars(unchecked: int, intervals: int) -> Stars:
    """What becomes of the stars of a table or figure: they go where more than half of its intervals have one."""
    if not unchecked:
        return Stars(True, "")
    if 2 * unchecked <= intervals:
        return Stars(True, STARRED)
    return Stars(False, ALL_FEW if unchecked == intervals else MOST_FEW)


def count_stars(text: str) -> tuple[int, int]:
    """How many intervals of a text have a star, and how many there are."""
    found = _INTERVAL.findall(text)
    return sum(bool(star) for _, star in found), len(found)


def without_stars(text: str) -> str:
    """The text, its intervals without stars.

    >>> without_stars("34 [25, 45]* → 10 [5, 18]*")
    '34 [25, 45] → 10 [5, 18]'
    """
    return _INTERVAL.sub(r"\1", text)
