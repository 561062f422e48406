"""Text as graders see it: normalized, and cut into words in every script."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Han, kana, Thai, Lao, Tibetan, Myanmar and Khmer are written without spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)


@lru_cache(maxsize=1 << 15)
def normalize(text: str) -> str:
    """Folds case, width and white space and removes punctuation (Unicode category P).

    Idempotent. Marks are kept, so no script loses its vowel signs.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(char for char in folded if not unicodedata.category(char).startswith("P"))
    return " ".join(unicodedata.normalize("NFKC", kept).split())


def words(text: str) -> list[str]:
    """The words of a normalized text; a character of an unspaced script is a word of its own."""
    return _UNSPACED.sub(lambda match: f" {match.group()} ", normalize(text)).split()


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text belong to a script without spaces between words."""
    letters = [char for char in text if unicodedata.category(char)[0] in "LM"]
    return 2 * sum(bool(_UNSPACED.match(char)) for char in letters) > len(letters)


def first_line(text: str) -> str:
    """The first line that is not empty."""
    return next((line for line in text.splitlines() if line.strip()), "")
