"""Shared prefixes of token sequences, and where scoring begins; for token ids and for token texts from a server."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import takewhile


def common_prefix(sequences: Sequence[Sequence[Hashable]]) -> int:
    """The length of the common prefix of all sequences, in tokens."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False)))


def scoring_start(
    prompt: Sequence[Hashable], continued: Sequence[Sequence[Hashable]], *, first: int = 0
) -> int:
    """Where scoring begins: after the prefix shared by a prompt and its continuations, leaving each at least one token.

    Args:
        prompt: the tokens of the prompt alone.
        continued: the tokens of the prompt with each continuation, encoded together.
        first: the first position that can be scored at all.
    """
    shared = common_prefix([prompt, *continued])
    return max(first, min(shared, *(len(sequence) - 1 for sequence in continued)))


def distinct_position(
    sequence: Sequence[Hashable], rivals: Sequence[Sequence[Hashable]], start: int
) -> int | None:
    """The first position from `start` on at which a sequence differs from all rivals; None if there is none."""
    position = max([start, *(common_prefix([sequence, rival]) for rival in rivals)])
    return position if position < len(sequence) else None
