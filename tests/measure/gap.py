"""The gap as a quantity of four columns of answers."""

from __future__ import annotations

from typing import Any

from anomia.measure.quantities import Quantity, minus, normalized


def gap_quantity(
    base_open: Any, arm_open: Any, base_choice: Any, arm_choice: Any, passages: Any = None, *, floor: Any
) -> Quantity:
    """ΔPR: the normalized drop of open − that of choice: [items] each. floor: choice's, one number or [items]."""
    opened = normalized(base_open, arm_open, passages, floor=0.0)
    return minus(opened, normalized(base_choice, arm_choice, passages, floor=floor))
