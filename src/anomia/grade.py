"""Is an output right? Normalization and matching.

Source: paper, Appendix B (normalized substring containment), with the two changes of
`docs/design.md`: punctuation is what Unicode calls punctuation, because the usual `[^\\w\\s]`
deletes the vowel signs of Bengali, Telugu and Thai; and a candidate-shown output that echoes
several candidates is not an answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

# Han, kana, Thai, Lao, Tibetan, Myanmar and Khmer are written without spaces between words.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
_THINK = re.compile(r"<think>.*?</think>", re.DOTALL)


class Grade(NamedTuple):
    """How an output compares with the gold answers: the best over all of them."""

    correct: bool
    exact_match: bool
    f1: float


class Stripped(NamedTuple):
    """An output without its `<think>` spans; `unclosed` if one was cut off by the token limit."""

    text: str
    unclosed: bool


@lru_cache(maxsize=1 << 15)
def normalize(text: str) -> str:
    """Folds case, width and white space and removes punctuation (Unicode category P).

    Idempotent. Marks are kept, so no script loses its vowel signs.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(char for char in folded if not unicodedata.category(char).startswith("P"))
    return " ".join(unicodedata.normalize("NFKC", kept).split())


def contains(output: str, answer: str) -> bool:
    """Whether the normalized answer stands in the normalized output."""
    wanted = normalize(answer)
    return bool(wanted) and wanted in normalize(output)


def strip_thinking(text: str) -> Stripped:
    """Removes `<think>…</think>` spans; an unclosed one leaves an empty answer."""
    rest = _THINK.sub("", text)
    if "<think>" in rest:
        return Stripped("", True)
    return Stripped(rest, False)


def is_degenerate(tokens: Sequence[int], text: str) -> bool:
    """Whether an output says nothing: no letter or digit, or one or two tokens over and over.

    Small models loop, too: compare with base's rate.
    """
    if not any(char.isalnum() for char in text):
        return True
    return len(tokens) >= 8 and len(set(tokens)) <= 2


def grade(output: str, answers: Sequence[str]) -> Grade:
    """Grades an open output: containment over all of it, exact match and F1 on its first non-empty line."""
    line = next((line for line in output.splitlines() if line.strip()), "")
    normalized = normalize(line)
    return Grade(
        correct=any(contains(output, answer) for answer in answers),
        exact_match=any(normalized == normalize(answer) != "" for answer in answers),
        f1=max((f1(line, answer) for answer in answers), default=0.0),
    )


def f1(output: str, answer: str) -> float:
    """Token F1 of SQuAD (Rajpurkar et al. 2016), with unspaced scripts split by character."""
    got, wanted = Counter(words(output)), Counter(words(answer))
    shared = sum((got & wanted).values())
    if not shared:
        return 0.0
    precision, recall = shared / got.total(), shared / wanted.total()
    return 2 * precision * recall / (precision + recall)


def words(text: str) -> list[str]:
    """The words of a normalized text; a character of an unspaced script is a word of its own."""
    return _UNSPACED.sub(lambda match: f" {match.group()} ", normalize(text)).split()


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text belong to a script without spaces between words."""
    letters = [char for char in text if unicodedata.category(char)[0] in "LM"]
    return 2 * sum(bool(_UNSPACED.match(char)) for char in letters) > len(letters)


def named_candidates(output: str, candidates: Sequence[str]) -> tuple[int, ...]:
    """Which candidates an output names, as indices in rising order.

    Longer candidates are looked for first and what they cover is used up, so that "New York City"
    doesn't also name "New York"; equal ones are named together.
    """
    rest = normalize(output)
    found: set[int] = set()
    wanted = [normalize(candidate) for candidate in candidates]
    for index in sorted(range(len(wanted)), key=lambda i: -len(wanted[i])):
        text = wanted[index]
        if text and text in rest:
            found.update(i for i, other in enumerate(wanted) if other == text)
            rest = rest.replace(text, "\0")
    return tuple(sorted(found))
