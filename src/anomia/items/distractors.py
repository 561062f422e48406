"""Wrong options for a question: standard, hard, from the same passage, unrelated.

Standard and hard ones follow the paper (Appendix B and section 3.5). Those from the same passage
are a control that it lacks: in TyDiQA and XQuAD gold is nearly always the only option that stands
in the passage, so that a model can choose well without reading the question.

All draws are functions of (seed, item id): order, subset and repetition change nothing.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from anomia.grade import is_unspaced, normalize
from anomia.items.item import Question

Shape = Literal["number", "date", "name", "words"]

# Used where a study has one language and too few answers of another kind.
UNRELATED_WORDS = (
    "umbrella", "violin", "a bowl of soup", "seven", "yesterday", "the left shoe", "copper", "Tuesday",
    "a wooden spoon", "green", "the harbour", "forty-two", "a bicycle", "rain", "Aunt Clara", "marble",
)  # fmt: skip
_SENTENCE_END = re.compile(r"[.!?。！？।؟;:]$")
_DIGIT = re.compile(r"\d")
_INNER_PUNCTUATION = re.compile(r"[,;:()\[\]،؛、，]")


def standard_distractors(question: Question, pool: Sequence[str], *, seed: int) -> tuple[str, ...]:
    """Three other gold answers of the language, drawn at random; none equals an answer after normalization.

    Args:
        question: whose options are drawn.
        pool: first answers of the language, one for each normalized form, in a fixed order.
        seed: of the study.

    Returns:
        Three texts, or fewer where the pool has no more.
    """
    own = {normalize(answer) for answer in question.answers}
    candidates = [text for text in pool if normalize(text) not in own]
    draw = random.Random(f"standard:{seed}:{question.id}")
    return tuple(draw.sample(candidates, min(3, len(candidates))))


def hard_distractors(question: Question, pool: Sequence[str]) -> tuple[str, ...]:
    """The three other gold answers most like gold: Jaccard overlap of character trigrams, ties by text.

    One that contains an answer or stands in one is excluded. Source: paper, section 3.5.
    """
    trigrams = _trigrams(normalize(question.gold))

    def overlap(text: str) -> float:
        other = _trigrams(normalize(text))
        return len(trigrams & other) / len(trigrams | other)

    candidates = [text for text in pool if not _overlaps(text, question.answers)]
    return tuple(sorted(candidates, key=lambda text: (-overlap(text), text))[:3])


def count_overlapping(question: Question, pool: Sequence[str]) -> int:
    """How many answers of the pool, other than its own, hard options leave out because they overlap it."""
    own = {normalize(answer) for answer in question.answers}
    return sum(_overlaps(text, question.answers) and normalize(text) not in own for text in pool)


def passage_distractors(question: Question, others: Iterable[str], *, seed: int) -> tuple[str, ...]:
    """Three options of gold's kind from its own passage.

    First what the data set brings along; then, of gold's shape (number, date, name, words), the
    answers of other questions about the passage and spans of like length; then answers and spans of
    any shape. None contains an answer, stands in one, or overlaps another.

    Args:
        question: whose options are drawn.
        others: first answers of the other questions about the same passage.
        seed: of the study.

    Returns:
        Three texts, or fewer where the passage has no more.
    """
    chosen: list[str] = []
    shape = answer_shape(question.gold)
    passage = normalize(question.context)
    answers = [text for text in others if normalize(text) in passage]
    spans = _ranked_spans(question, seed)
    ranked = (
        *question.passage_distractors,
        *(text for text in answers if answer_shape(text) == shape),
        *(span for span in spans if answer_shape(span) == shape),
        *answers,
        *spans,
    )
    for text in ranked:
        if len(chosen) == 3:
            break
        if normalize(text) and not _overlaps(text, (*question.answers, *chosen)):
            chosen.append(text)
    return tuple(chosen)


def unrelated_candidates(
    question: Question, foreign: Sequence[str], same_language: Sequence[str], *, seed: int
) -> tuple[str, ...]:
    """Four candidates that have nothing to do with the question (paper, section 3.2).

    Gold answers of other languages; in a study of one language, answers of another shape;
    where these are too few, words from a shipped list.
    """
    shape = answer_shape(question.gold)
    candidates = list(foreign) or [text for text in same_language if answer_shape(text) != shape]
    usable = [text for text in candidates if not _overlaps(text, question.answers)]
    if len(usable) < 4:
        usable += [text for text in UNRELATED_WORDS if not _overlaps(text, (*question.answers, *usable))]
    return tuple(random.Random(f"unrelated:{seed}:{question.id}").sample(usable, 4))


def answer_shape(text: str) -> Shape:
    """The kind of an answer, from its characters alone: date, number, name or words.

    A short text with a number of four digits counts as a date: most often it is a year.
    """
    tokens = text.split()
    digits = [token for token in tokens if _DIGIT.search(token)]
    if digits:
        year = any(re.fullmatch(r"\D*\d{4}\D*", token) for token in digits)
        return "date" if year and len(tokens) <= 5 else "number"
    first = next((char for char in text if char.isalpha()), "")
    return "name" if first.isupper() else "words"


@lru_cache(maxsize=1 << 14)
def _trigrams(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 3] for i in range(max(1, len(text) - 2)))


def _ranked_spans(question: Question, seed: int) -> list[str]:
    """Spans of the passage, those most like gold first, equals in an order drawn for the item."""
    gold = question.gold
    pattern = _pattern(gold)

    def unlike(span: str) -> tuple[bool, bool, bool, bool]:
        other = _pattern(span)
        return (
            other != pattern,
            (other[:1], other[-1:]) != (pattern[:1], pattern[-1:]),
            abs(len(span) - len(gold)) > max(2, len(gold) // 3),
            bool(_INNER_PUNCTUATION.search(span)) and not _INNER_PUNCTUATION.search(gold),
        )

    spans = list(dict.fromkeys(_spans(question.context, gold)))
    random.Random(f"passage:{seed}:{question.id}").shuffle(spans)
    return sorted(spans, key=unlike)


def _pattern(text: str) -> str:
    """One letter a word: d for digits, C for a capital, w for any other."""
    return "".join("d" if _DIGIT.search(word) else "C" if word[0].isupper() else "w" for word in text.split())


def _overlaps(text: str, others: Iterable[str]) -> bool:
    this = normalize(text)
    return any(this in other or other in this for other in map(normalize, others))


def _spans(context: str, gold: str) -> Iterator[str]:
    """Spans of the passage as long as gold, in words (or characters, in scripts without spaces)."""
    if is_unspaced(gold) or is_unspaced(context):
        yield from _character_spans(context, len(gold))
        return
    words = context.split()
    for size in range(max(1, len(gold.split()) - 1), len(gold.split()) + 2):
        for start in range(len(words) - size + 1):
            window = words[start : start + size]
            if not any(_SENTENCE_END.search(word) for word in window[:-1]):
                yield _trim(" ".join(window))


def _character_spans(context: str, length: int) -> Iterator[str]:
    for start in range(len(context) - length + 1):
        span = context[start : start + length]
        following = context[start + length : start + length + 1]
        clean = not any(unicodedata.category(char)[0] in "PZC" for char in span)
        if clean and not _is_mark(span[0]) and not _is_mark(following):
            yield span


def _is_mark(char: str) -> bool:
    return bool(char) and unicodedata.category(char).startswith("M")


def _trim(text: str) -> str:
    """Removes punctuation at both ends."""
    start, end = 0, len(text)
    while start < end and unicodedata.category(text[start])[0] in "PZ":
        start += 1
    while end > start and unicodedata.category(text[end - 1])[0] in "PZ":
        end -= 1
    return text[start:end]
