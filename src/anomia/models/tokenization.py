"""What a tokenizer makes of texts."""

from __future__ import annotations

from typing import Any


def same_ids(base: Any, other: Any) -> bool:
    """Whether every token of base's vocabulary has the same id in the other."""
    theirs = other.get_vocab()
    return all(theirs.get(token) == number for token, number in base.get_vocab().items())
