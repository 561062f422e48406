"""What token sequences share, and so where scoring begins: of token ids as of the texts of a server's tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import takewhile


def common_prefix(sequences: Sequence[Sequence[Hashable]]) -> int:
    """How many tokens all sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False)))


def scoring_start(
    prompt: Sequence[Hashable], continued: Sequence[Sequence[Hashable]], *, first: int = 0
) -> int:
    """Where scoring begins: after what a prompt and all that continue it share, with at least one token left of each.

    Args:
        prompt: the tokens of the prompt alone.
        continued: those of the prompt with each continuation, encoded together.
        first: the first token that can be scored at all.
    """
    shared = common_prefix([prompt, *continued])
    return max(first, min(shared, *(len(sequence) - 1 for sequence in continued)))


def distinct_position(
    sequence: Sequence[Hashable], rivals: Sequence[Sequence[Hashable]], start: int
) -> int | None:
    """Where the first token from `start` on is that no rival shares, given the tokens before it; None: it has none."""
    position = max([start, *(common_prefix([sequence, rival]) for rival in rivals)])
    return position if position < len(sequence) else None
