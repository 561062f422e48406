"""Null arms that would be base itself, which have to be refused before anything is measured."""

from __future__ import annotations

from anomia.compress.catalogue import NULL_DTYPES
from anomia.compress.steps import Arm, Null
from anomia.errors import CompressionError


def check_differs(arm: Arm, *, dtype: str | None, batch_size: int | None) -> None:
    """Refuse a null arm with base's own dtype or batch size. dtype, batch_size: base's; None if not known yet.

    Raises:
        CompressionError: the arm would be identical to base.
    """
    null = arm.steps[0] if arm.steps else None
    if not isinstance(null, Null):
        return
    if null.dtype is not None and null.dtype == dtype:
        others = " or ".join(f"null:{name}" for name in NULL_DTYPES if name != null.dtype)
        raise CompressionError(f"{null}: base already runs in {dtype}; take {others}, or null:batch=N")
    if null.batch is not None and null.batch == batch_size:
        raise CompressionError(f"{null}: base already runs in batches of {null.batch}; take another number")
