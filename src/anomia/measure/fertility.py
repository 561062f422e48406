"""How many tokens a tokenizer spends on a language: per word, or per character where words have no spaces."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from anomia.errors import DataError

# Scripts written without spaces between words, as they begin the Unicode names of their letters.
_WITHOUT_SPACES = (
    "CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "TAI ",
)  # fmt: skip


class Fertility(NamedTuple):
    """Tokens a unit. units: the words or characters counted."""

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
    """Tokens per word of some texts, or per character in scripts without spaces; None where there is no unit.

    token_counts: tokens of each text, special tokens excluded. A word holds a letter or a digit; a
    character is anything but white space. Ratio of sums, so that long texts weigh more.

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
