"""Detect outputs that loop.

A loop is a piece of at most 16 tokens, repeated over at least half of the output. Damaged models loop most, but small
intact ones do too, so compare with base's rate. Long answers have a definition of their own: `loop_of`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

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


class LoopWatch:
    """Follows an answer token by token until it is settled that it counts as a loop, whatever comes after.

    It is settled once a piece has been repeated without gaps, at least twice, over half of the tokens that the answer
    may have. A piece has at most 128 tokens and at most a quarter of `limit`. An answer may leave such a loop later and
    even end, so without this rule no answer could be stopped before its limit.

    limit: the most tokens that the answer may have.
    """

    def __init__(self, limit: int) -> None:
        span = (limit + 1) // 2
        pieces = min(LONGEST_PARAGRAPH, limit // 4) if span >= SHORTEST_LOOP else 0
        self._periods = np.arange(1, pieces + 1)
        # For each period: how many tokens in a row equal the one a period before, and how many make a loop.
        self._equal = np.zeros(pieces, dtype=np.int64)
        self._needed = span - self._periods
        # The tokens so far, the last one first, so that those a period before are a slice.
        self._tokens = np.full(limit + pieces, -1, dtype=np.int64)
        self._first = limit
        self._limit = limit
        self.loop: Loop | None = None

    def add(self, token: int) -> bool:
        """Takes the next token; returns whether the answer is settled to be a loop, as it then stays."""
        if self.loop is not None or not len(self._periods) or not self._first:
            return self.loop is not None
        before = self._tokens[self._first : self._first + len(self._periods)]
        self._equal += 1
        self._equal *= before == token
        self._first -= 1
        self._tokens[self._first] = token
        if (self._equal >= self._needed).any():
            found = np.flatnonzero(self._equal >= self._needed)
            starts = self._limit - self._first - self._equal[found] - self._periods[found]
            self.loop = min(
                Loop(start, period)
                for start, period in zip(starts.tolist(), self._periods[found].tolist(), strict=True)
            )
        return self.loop is not None


class Settled(NamedTuple):
    """A loop that is settled, and the number of tokens after which it is."""

    loop: Loop
    tokens: int


def settled_loop(tokens: Sequence[int], limit: int) -> Settled | None:
    """The first point at which an answer of at most `limit` tokens is settled to be a loop; None if there is none.

    >>> settled_loop([5, 6, 7, *[1, 2] * 60, 9], limit=200)
    Settled(loop=Loop(start=3, period=2), tokens=103)
    """
    return _settled(tuple(tokens), limit)


# Several columns of a record ask for the same answer.
@functools.lru_cache(maxsize=8)
def _settled(tokens: tuple[int, ...], limit: int) -> Settled | None:
    watch = LoopWatch(limit)
    for count, token in enumerate(tokens, 1):
        if watch.add(token):
            assert watch.loop is not None
            return Settled(watch.loop, count)
    return None


def loop_of(tokens: Sequence[int], *, limit: int, ended: bool | None) -> Loop | None:
    """The loop of a long answer; None if it has none.

    It is the one that the answer can't lose any more (`LoopWatch`), or else the one that it is in when it reaches the
    limit (`final_loop`). An answer that was stopped where it was settled has the same loop as the whole one.

    tokens: the answer, of at most `limit` tokens. ended: whether it ended by itself.
    """
    settled = settled_loop(tokens, limit)
    if settled is not None:
        return settled.loop
    return None if ended else final_loop(tokens)


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
