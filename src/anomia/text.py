"""Text for graders: normalized, and split into words in every script."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Any

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

# The least probability at which a language counts as identified.
_CERTAIN = 0.9


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


def main_script(text: str) -> str | None:
    """The script of most letters of a text, by the first word of their Unicode names; None without letters.

    Han, kana and Hangul count as what they are, so Japanese text is either.

    >>> main_script("Это ответ, an answer"), main_script("答え"), main_script("42")
    ('CYRILLIC', 'CJK', None)
    """
    found = Counter(_script(char) for char in text if unicodedata.category(char)[0] == "L")
    return max(found, key=found.__getitem__) if found else None


@lru_cache(maxsize=1 << 15)
def _script(char: str) -> str:
    return unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0]


def main_language(text: str) -> str | None:
    """The language of a text as an ISO 639-1 code, such as `sw`; None if it can't be told, as of a number or a name.

    Source: langid.py (Lui and Baldwin 2012), 97 languages.
    """
    code, share = _identifier().classify(text)
    return str(code) if share >= _CERTAIN else None


@lru_cache(maxsize=1)
def _identifier() -> Any:
    # A second of loading, which only long answers need.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]  # it brings no types

    return LanguageIdentifier.from_pickled_model(MODEL_FILE, norm_probs=True)


def final_answer(text: str) -> str:
    r"""What a text finally answers: what follows the last `####`, `\boxed{` or "answer is", else its last line.

    Case, white space, emphasis and a final full stop don't count; signs and decimal points do.

    >>> final_answer("2 + 2 = 4\n#### 4"), final_answer("So the answer is **Rome**.")
    ('4', 'rome')
    """
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", text)
    lines = seen_lines(text)
    last = boxed[-1] if boxed else re.split(r"####|answer is:?|Answer:", lines[-1])[-1] if lines else ""
    return " ".join(last.replace("*", "").casefold().split()).rstrip(". ")


def layout(text: str) -> str:
    """The form of a text: JSON, code, table, list or prose. Broken JSON is prose, so a lost format shows."""
    fenced = re.fullmatch(r"\s*```\w*\n(.*?)(```)?\s*", text, re.DOTALL)
    inner = (fenced[1] if fenced else text).strip()
    if inner[:1] in ("{", "["):
        try:
            json.loads(inner)
        except ValueError:
            pass
        else:
            return "JSON"
    if fenced or "```" in text:
        return "code"
    lines = seen_lines(text)
    if sum(line.strip().startswith("|") for line in lines) >= 2:
        return "table"
    if sum(bool(re.match(r"\s*([-*•]|\d+[.)])\s+\S", line)) for line in lines) >= 2:
        return "list"
    return "prose"


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
