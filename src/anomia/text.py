"""Text for graders: normalized, and split into words in every script."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Han, kana, Thai, Lao, Tibetan, Myanmar and Khmer are written without spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
# Visible characters of category Cf: signs of Arabic, Syriac and Kaithi, joiners of hieroglyphs, and the tags that
# distinguish flags.
SEEN = re.compile(
    "[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U00013430-\U0001343f\U000e0020-\U000e007f]"
)
# Letters that older texts write with a zero-width joiner. Without it they are different letters: in Malayalam "he"
# becomes "to him", in Marathi "valleys" becomes "sea". The six chillus of Malayalam, khanda ta of Bengali, eyelash ra
# of Devanagari.
JOINED = {
    "\u0d23\u0d4d\u200d": "\u0d7a", "\u0d28\u0d4d\u200d": "\u0d7b", "\u0d30\u0d4d\u200d": "\u0d7c",
    "\u0d32\u0d4d\u200d": "\u0d7d", "\u0d33\u0d4d\u200d": "\u0d7e", "\u0d15\u0d4d\u200d": "\u0d7f",
    "\u09a4\u09cd\u200d": "\u09ce", "\u0930\u094d\u200d": "\u0931\u094d",
}  # fmt: skip


def visible(text: str) -> str:
    """A text without invisible characters: zero-width characters, soft hyphens, direction marks and so on.

    Letters that need such a character are replaced by the code points that Unicode has since added for them.
    """
    if text.isascii():
        return text
    joiner = "\u200d"
    text = "".join(
        char for char in text if char == joiner or unicodedata.category(char) != "Cf" or SEEN.match(char)
    )
    if joiner in text:
        for old, new in JOINED.items():
            text = text.replace(old, new)
    return text.replace(joiner, "")


@lru_cache(maxsize=1 << 15)
def normalize(text: str) -> str:
    """Fold case, width and white space, and remove punctuation (Unicode category P) and invisible characters.

    Idempotent. Marks are kept, so no script loses its vowel signs.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible(text)).casefold())
    kept = "".join(char for char in folded if not unicodedata.category(char).startswith("P"))
    return " ".join(unicodedata.normalize("NFKC", kept).split())


def words(text: str) -> list[str]:
    """The words of the normalized text; each character of an unspaced script is a word."""
    return _UNSPACED.sub(lambda match: f" {match.group()} ", normalize(text)).split()


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text belong to a script without spaces between words."""
    letters = [char for char in text if unicodedata.category(char)[0] in "LM"]
    return 2 * sum(bool(_UNSPACED.match(char)) for char in letters) > len(letters)


def first_lines(text: str, answer: str) -> tuple[str, ...]:
    """The parts of an output to compare with an answer: its first line and, if the answer has n > 1 lines, its first n.

    Lines without visible characters don't count.
    """
    lines, count = seen_lines(text), len(seen_lines(answer))
    first = "".join(lines[:1])
    return (first,) if count < 2 else (first, "\n".join(lines[:count]))


def seen_lines(text: str) -> list[str]:
    """The lines that have visible characters, without invisible ones."""
    return [line for line in visible(text).splitlines() if line.strip()]
