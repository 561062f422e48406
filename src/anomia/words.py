"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun. many: the noun's plural where it isn't `one` with an s.

    >>> counted(1, "matrix", "matrices"), counted(2000, "token")
    ('1 matrix', '2,000 tokens')
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
