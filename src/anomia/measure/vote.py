"""One answer from several beams or samples: the one on which most of them agree, picked without knowing gold.

Sources: samples have one vote each, as in Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in
Language Models" (arXiv 2203.11171), section 2. Beams aren't drawn at random, so each weighs its probability, as in
Fadeeva et al. 2025 (arXiv 2512.09538).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from anomia.strict import before_next_prompt, first_entry, fold
from anomia.text import normalize, seen_lines, words

# A full stop after fewer letters or digits may belong to an abbreviation or a date: Dr. Smith, 1852 г., 15. huhtikuuta.
_SHORTEST_LAST_WORD = 4
_STOP = re.compile(r"[.!?]+(?=\s|$)|[。！？।۔؟]")
_ASKS = frozenset("?？؟")
_LABEL = re.compile(r"^[^\S\n]*Answer\b[^\n:]{0,30}:", re.IGNORECASE | re.MULTILINE)
# The same without its colon, or another label, where the token limit cut it off.
_CUT_LABEL = re.compile(r"^[^\S\n]*(?:Answer|Question|Context)\b[^\n:]{0,30}$", re.IGNORECASE | re.MULTILINE)
_SPECIAL_TOKEN = re.compile(r"<\|?[a-z]\w*\|?>", re.IGNORECASE)


class Vote(NamedTuple):
    """The text that stands for the answer with the largest mass.

    agreeing: how many texts give that answer; 0 if it says nothing.
    """

    text: str
    agreeing: int


class _Ballot(NamedTuple):
    text: str
    weight: float


def short_answer(text: str) -> str:
    """The answer that a text begins with, folded as the strict grader folds it; empty if it says nothing.

    Texts that give the same answer differ mostly in how they go on. So what counts is the first entry of a list, else
    the first sentence of the first line, before another "Question:". Questions, headings that end in a colon, special
    tokens, and the prompt's own "Answer in a few words:", which weak models repeat, say nothing.

    >>> short_answer(" The Galápagos.\\n\\nThey are"), short_answer("Answer: 1,500 m"), short_answer("Where is it?")
    ('the galápagos', '1500 m', '')
    """
    text, labels = _LABEL.subn("", before_next_prompt(_SPECIAL_TOKEN.sub(" ", text)))
    if labels:
        text = _CUT_LABEL.sub("", text)
    *lines, last = seen_lines(first_entry(text)) or [""]
    kept = [*(line for line in lines if not line.rstrip().endswith(":")), last]
    said = (fold(sentence) for line in kept for sentence in _statements(line))
    return next(filter(None, said), "")


def whole_answer(text: str) -> str:
    """The whole text, normalized: in tasks, whose answers have no common form, only equal texts agree."""
    return normalize(text)


def vote(
    texts: Sequence[str],
    log_probs: Sequence[float | None] | None = None,
    *,
    answer: Callable[[str], str] = short_answer,
) -> Vote | None:
    """The text that stands for the answer with the largest mass; None if no text has a finite log-probability.

    Each text weighs its probability, or 1 without log-probabilities. Of answers with equal mass, the one with the best
    text wins, then one drawn by the texts alone. Of the texts that give the winning answer, the one with the largest
    mass stands for it. The order of the texts never matters. Texts that say nothing abstain, unless all do.

    log_probs: of each text, in nats, [texts]; texts for which it isn't finite don't count.
    answer: what a text answers; empty if nothing.
    """
    ballots = _ballots(texts, log_probs)
    if not ballots:
        return None
    by_answer = _grouped(ballots, answer)
    said = {given: cast for given, cast in by_answer.items() if given} or by_answer
    draw = _draw([ballot.text for cast in said.values() for ballot in cast])
    won = max(said, key=lambda given: (*_mass(said[given]), draw(min(said[given]).text)))
    by_text = _grouped(said[won], str)
    stands = max(by_text, key=lambda text: (*_mass(by_text[text]), draw(text)))
    return Vote(stands, len(said[won]) if won else 0)


def _ballots(texts: Sequence[str], log_probs: Sequence[float | None] | None) -> list[_Ballot]:
    """The texts with finite log-probabilities, and their weights, relative to that of the best text."""
    given = [0.0] * len(texts) if log_probs is None else log_probs
    finite = [
        (text, log_prob)
        for text, log_prob in zip(texts, given, strict=True)
        if log_prob is not None and math.isfinite(log_prob)
    ]
    best = max((log_prob for _, log_prob in finite), default=0.0)
    return [_Ballot(text, math.exp(log_prob - best)) for text, log_prob in finite]


def _grouped(ballots: Sequence[_Ballot], key: Callable[[str], str]) -> dict[str, list[_Ballot]]:
    groups: dict[str, list[_Ballot]] = defaultdict(list)
    for ballot in ballots:
        groups[key(ballot.text)].append(ballot)
    return groups


def _mass(ballots: Sequence[_Ballot]) -> tuple[float, float]:
    """The sum of the weights, exactly rounded so that it doesn't depend on their order, and the largest of them."""
    weights = [ballot.weight for ballot in ballots]
    return math.fsum(weights), max(weights)


def _draw(texts: Sequence[str]) -> Callable[[str], bytes]:
    """A lot for each text that depends on all texts, but neither on their order nor on what a text says or how long."""
    everything = "\0".join(sorted(texts))
    return lambda text: sha256(f"{everything}\0\0{text}".encode("utf-8", "replace")).digest()


def _statements(line: str) -> Iterator[str]:
    """The sentences of a line that are no questions."""
    start = 0
    for stop in _STOP.finditer(line):
        sentence = line[start : stop.start()]
        if stop.group() == "." and len("".join(words(sentence)[-1:])) < _SHORTEST_LAST_WORD:
            continue
        if _ASKS.isdisjoint(stop.group()):
            yield sentence
        start = stop.end()
    yield line[start:]
