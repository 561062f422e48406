"""Detect outputs that loop.

A loop is a piece of at most 16 tokens, repeated over at least half of the output. Damaged models loop most, but small
intact ones do too, so compare with base's rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import NamedTuple

from anomia.text import is_unspaced, words

LONGEST_PIECE = 16
# In long answers whole sentences and paragraphs repeat.
LONGEST_PARAGRAPH = 128
# Shorter outputs are never loops: a number such as 1,000,000 repeats its zeros.
SHORTEST_LOOP = 12
# The same in words; 32 tokens are 5 (Telugu) to 25 (English) words.
SHORTEST_LOOP_WORDS = 6
_LONG_WORD = 16


def is_loop(tokens: Sequence[Hashable], *, shortest: int = SHORTEST_LOOP) -> bool:
    """Whether a piece of 1 to 16 tokens is repeated over at least half of the tokens.

    Repetitions have no gaps; at least two must be complete, and a truncated last one counts. They may start and end
    anywhere. Remove special tokens first, because padding would be a loop.

    Args:
        tokens: the generated token ids or words.
        shortest: the minimum number of tokens that the repetitions span.
    """
    return any(
        span >= max(shortest, 2 * period) and 2 * span >= len(tokens)
        for period in range(1, LONGEST_PIECE + 1)
        if (span := _longest_span(tokens, period))
    )


def _longest_span(tokens: Sequence[Hashable], period: int) -> int:
    """The length in tokens of the longest stretch that repeats with this period."""
    equal = (tokens[i] == tokens[i + period] for i in range(len(tokens) - period))
    return max((period + sum(1 for _ in run) for same, run in groupby(equal) if same), default=0)


class Loop(NamedTuple):
    """Where an output starts to repeat, and the length of the piece that is repeated. Both in tokens."""

    start: int
    period: int


def final_loop(tokens: Sequence[Hashable], *, shortest: int = SHORTEST_LOOP) -> Loop | None:
    """The loop that an output ends in; None if it doesn't end in one.

    A piece of at most 128 tokens must be repeated, without gaps, at least twice and over at least `shortest` tokens, up
    to the end; the first of its repetitions is where the loop starts. Long answers may be sound for hundreds of tokens
    first, which `is_loop` would let pass.
    """
    found = []
    for period in range(1, LONGEST_PARAGRAPH + 1):
        start = len(tokens) - period
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        if start >= 0 and len(tokens) - start >= max(shortest, 2 * period):
            found.append(Loop(start, period))
    return min(found, default=None)


def is_text_loop(text: str) -> bool:
    """`is_loop` for an output known only as text.

    Compares words (characters, in scripts without spaces), and also the characters within words of 16 or more, to
    find loops such as "lelelele…".
    """
    found = words(text)
    whole = sum(map(len, found))
    shortest = SHORTEST_LOOP if is_unspaced(text) else SHORTEST_LOOP_WORDS
    return is_loop(found, shortest=shortest) or any(
        len(word) >= _LONG_WORD and 2 * len(word) >= whole and is_loop(word) for word in found
    )
