"""Does an output go round in circles?

A loop is a piece of at most 16 tokens repeated over at least half of the output. Damaged models do it most, but
small sound ones do it, too: compare with base's rate.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

from anomia.text import is_unspaced, words

LONGEST_PIECE = 16
# Shorter outputs are never loops: a number such as 1,000,000 repeats its zeros.
SHORTEST_LOOP = 12
# The same for words, of which 32 tokens make 5 (Telugu) to 25 (English).
SHORTEST_LOOP_WORDS = 6
_LONG_WORD = 16


def is_loop(tokens: Sequence[Hashable], *, shortest: int = SHORTEST_LOOP) -> bool:
    """Whether a piece of 1 to 16 tokens is repeated over at least half of the tokens.

    The repetitions follow each other without a gap; at least two are whole, and a last one that is cut off
    counts. They may begin and end anywhere. Special tokens must have been taken out: padding is a loop, too.

    Args:
        tokens: what was generated, as ids or as words.
        shortest: the fewest tokens that the repetitions must span.
    """
    return any(
        span >= max(shortest, 2 * period) and 2 * span >= len(tokens)
        for period in range(1, LONGEST_PIECE + 1)
        if (span := _longest_span(tokens, period))
    )


def _longest_span(tokens: Sequence[Hashable], period: int) -> int:
    """The length of the longest stretch in which every token equals the one `period` places before it."""
    equal = (tokens[i] == tokens[i + period] for i in range(len(tokens) - period))
    return max((period + sum(1 for _ in run) for same, run in groupby(equal) if same), default=0)


def is_text_loop(text: str) -> bool:
    """`is_loop` for an output of which only the text is known.

    It compares words — characters, in scripts without spaces — and the characters of a word of 16 or more, which
    is how "lelelele…" looks in a text.
    """
    found = words(text)
    whole = sum(map(len, found))
    shortest = SHORTEST_LOOP if is_unspaced(text) else SHORTEST_LOOP_WORDS
    return is_loop(found, shortest=shortest) or any(
        len(word) >= _LONG_WORD and 2 * len(word) >= whole and is_loop(word) for word in found
    )
