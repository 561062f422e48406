"""The floor of an accuracy, and how far base must stand above it for a share of what it had to say something.

Source: paper, sections 2.1 and 3.5. Accuracies are shares from 0 to 1, never per cent. The drops themselves
are quantities with intervals: `quantities.drop`, `normalized` and `gap_quantity`.
"""

from __future__ import annotations

# Base must stand this far above the floor, or a share of what it had says nothing.
FEWEST_ABOVE_FLOOR = 0.10


# Where records don't tell how many options were offered.
QUARTER = 1 / 4


def chance(options: int) -> float:
    """The floor of choice: the accuracy of guessing among that many options. Generation's floor is 0."""
    return 1.0 / options


def above_floor(base: float, floor: float, *, margin: float = FEWEST_ABOVE_FLOOR) -> bool:
    """Whether base stands far enough above the floor for a normalized drop."""
    # 0.35 − 0.25 is a little less than 0.1 in binary.
    return base - floor >= margin - 1e-9
