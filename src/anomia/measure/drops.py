"""The floor of an accuracy, and how far above it base must be for a normalized drop.

Source: paper, sections 2.1 and 3.5. Accuracies are shares from 0 to 1, not percentages. The drops themselves
are quantities with intervals: `quantities.drop` and `normalized`; a gap is one drop minus another.
"""

from __future__ import annotations

# Base must be this far above the floor; otherwise a share of what it had means nothing.
FEWEST_ABOVE_FLOOR = 0.10


# The floor where records don't say how many options were offered.
QUARTER = 1 / 4


def chance(options: int) -> float:
    """The floor of choice: the accuracy of guessing among this many options. The floor of generation is 0."""
    return 1.0 / options


def above_floor(base: float, floor: float, *, margin: float = FEWEST_ABOVE_FLOOR) -> bool:
    """Whether base is far enough above the floor for a normalized drop."""
    # 0.35 − 0.25 is a little less than 0.1 in binary.
    return base - floor >= margin - 1e-9
