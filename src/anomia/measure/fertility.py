"""How many tokens a tokenizer spends on a language: per word, or per character where words have no spaces."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from anomia.errors import DataError

# Scripts written without spaces between words, by the prefix of their letters' Unicode names.
_WITHOUT_SPACES = (
    "CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "TAI ",
)  # fmt: skip


class Fertility(NamedTuple):
    """Tokens per unit. units: the number of words or characters."""

    tokens_per_unit: float
    unit: Literal["word", "character"]
    tokens: int
    units: int


def spaced(texts: Iterable[str]) -> bool:
    """Whether most letters of the texts belong to scripts that put spaces between words."""
    with_spaces = without = 0
    for text in texts:
        for character in text:
            if not character.isalpha():
                continue
            if unicodedata.name(character, "").startswith(_WITHOUT_SPACES):
                without += 1
            else:
                with_spaces += 1
    return with_spaces >= without


def fertility(texts: Sequence[str], token_counts: Sequence[int]) -> Fertility | None:
    """Tokens per word of some texts, or per character in scripts without spaces; None if there are no units.

    token_counts: tokens of each text, without special tokens. A word contains a letter or a digit; a
    character is anything but white space. This is a ratio of sums, so longer texts weigh more.

    >>> fertility(["knowing a word"], [4]).unit
    'word'
    """
    if len(texts) != len(token_counts):
        raise DataError(f"{len(texts)} texts but {len(token_counts)} token counts: give one count per text")
    words = spaced(texts)
    units = sum(_words(text) if words else sum(not c.isspace() for c in text) for text in texts)
    if not units:
        return None
    tokens = sum(token_counts)
    return Fertility(tokens / units, "word" if words else "character", tokens, units)


def _words(text: str) -> int:
    return sum(any(character.isalnum() for character in piece) for piece in text.split())
