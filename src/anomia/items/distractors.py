"""Wrong options for a question: standard, hard, from the same passage, unrelated.

Standard and hard options follow the paper (Appendix B and section 3.5). Options from the same passage are a control
that the paper lacks: in TyDiQA and XQuAD, gold is nearly always the only option that occurs in the passage, so a
model can choose well without reading the question.

All draws depend only on (seed, item id), not on order, subset or repetition.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from anomia.grade import is_unspaced, normalize
from anomia.items.item import Question

AnswerShape = Literal["number", "date", "name", "words"]

# Used if a study has too few answers in other languages or of another shape.
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
        question: the question to draw for.
        pool: gold answers of the language, one per normalized form, in a fixed order.
        seed: the study's seed.

    Returns:
        Three texts, or fewer if the pool runs out.
    """
    own = {normalize(answer) for answer in question.answers}
    candidates = [text for text in pool if normalize(text) not in own]
    draw = random.Random(f"standard:{seed}:{question.id}")
    return tuple(draw.sample(candidates, min(3, len(candidates))))


def hard_distractors(question: Question, pool: Sequence[str]) -> tuple[str, ...]:
    """The three other gold answers most similar to gold: Jaccard overlap of character trigrams, ties by text.

    Candidates that contain an answer or are contained in one are excluded. Source: paper, section 3.5.
    """
    trigrams = _trigrams(normalize(question.gold))

    def overlap(text: str) -> float:
        other = _trigrams(normalize(text))
        return len(trigrams & other) / len(trigrams | other)

    candidates = [text for text in pool if not _overlaps(text, question.answers)]
    return tuple(sorted(candidates, key=lambda text: (-overlap(text), text))[:3])


def count_overlapping(question: Question, pool: Sequence[str]) -> int:
    """The number of other answers in the pool that hard options exclude because they overlap one of the question's."""
    own = {normalize(answer) for answer in question.answers}
    return sum(_overlaps(text, question.answers) and normalize(text) not in own for text in pool)


def passage_distractors(question: Question, others: Iterable[str], *, seed: int) -> tuple[str, ...]:
    """Three options from the question's own passage, of gold's shape where possible.

    In this order: options that the data set brings; answers of other questions about the passage, then spans of
    similar length, all of gold's shape (number, date, name, words); then answers and spans of any shape.
    None contains an answer, is contained in one, or overlaps another option.

    Args:
        question: the question to draw for.
        others: gold answers of the other questions about the same passage.
        seed: the study's seed.

    Returns:
        Three texts, or fewer if the passage has no more.
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
    """Four candidates unrelated to the question (paper, section 3.2).

    They are gold answers in other languages or, in a study of one language, answers of another shape. If these are
    too few, words from `UNRELATED_WORDS` are added.
    """
    shape = answer_shape(question.gold)
    candidates = list(foreign) or [text for text in same_language if answer_shape(text) != shape]
    usable = [text for text in candidates if not _overlaps(text, question.answers)]
    if len(usable) < 4:
        usable += [text for text in UNRELATED_WORDS if not _overlaps(text, (*question.answers, *usable))]
    return tuple(random.Random(f"unrelated:{seed}:{question.id}").sample(usable, 4))


class Sources(NamedTuple):
    """What wrong options are drawn from.

    pool: gold answers of the language. passage: those of the questions about the same passage. seed: the study's.
    """

    pool: Sequence[str]
    passage: Sequence[str]
    seed: int


# How each kind in `OPTION_KINDS` is drawn: the wrong options, three or fewer.
DRAW: Mapping[str, Callable[[Question, Sources], tuple[str, ...]]] = {
    "standard": lambda question, of: standard_distractors(question, of.pool, seed=of.seed),
    "hard": lambda question, of: hard_distractors(question, of.pool),
    "passage": lambda question, of: passage_distractors(question, of.passage, seed=of.seed),
}


def answer_shape(text: str) -> AnswerShape:
    """The kind of an answer, from its characters alone: date, number, name or words.

    A short text with a four-digit number counts as a date, since it is usually a year.
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
    """Spans of the passage, most similar to gold first; ties in a random order seeded per item."""
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
    """One letter per word: d if it has digits, C if it is capitalized, w otherwise."""
    return "".join("d" if _DIGIT.search(word) else "C" if word[0].isupper() else "w" for word in text.split())


def _overlaps(text: str, others: Iterable[str]) -> bool:
    this = normalize(text)
    return any(this in other or other in this for other in map(normalize, others))


def _spans(context: str, gold: str) -> Iterator[str]:
    """Spans of the passage within one word of gold's length (or of its exact length in characters, without spaces)."""
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
    """Strip punctuation and white space from both ends."""
    start, end = 0, len(text)
    while start < end and unicodedata.category(text[start])[0] in "PZ":
        start += 1
    while end > start and unicodedata.category(text[end - 1])[0] in "PZ":
        end -= 1
    return text[start:end]
