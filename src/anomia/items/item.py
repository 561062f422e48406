"""The types that pass between readers, distractors, prompts and probes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Question:
    """One question as a data set gives it. `answers[0]` is gold; the others are accepted too.

    distractors: wrong options that the data set brings along (1 to 25), which take the place of drawn ones.
    passage_distractors: wrong options from the same passage that it brings along. Either may be empty.
    """

    id: str
    language: str
    context: str
    question: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    passage_distractors: tuple[str, ...] = ()

    @property
    def gold(self) -> str:
        """The answer that options, ranks and log-probabilities use."""
        return self.answers[0]

    @property
    def passage_id(self) -> str:
        """Names the passage: questions that share it are not independent. Empty contexts never share."""
        text = self.context or self.id
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Item:
    """A question with everything that is drawn for it: what a model is asked about.

    options: by kind (`standard`, `hard`, `passage`), texts in the order shown, gold among them: four, but as
        many as the question brings along; a kind that could not be filled is absent.
    unrelated: four candidates that have nothing to do with the question.
    foil: a wrong option that is put through the rank and reach measures in gold's place.
    """

    question: Question
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unrelated: tuple[str, ...] = ()
    foil: str = ""


@dataclass(frozen=True, slots=True)
class ItemSet:
    """The items of one language of one data set, in the fixed order, and what was left out.

    exemplar: the question that one-shot prompts show, outside the items; None where there is none.
    excluded: how many questions or options were left out, by reason. `repeated` ones are told and stay.
    """

    dataset: str
    language: str
    items: tuple[Item, ...]
    exemplar: Question | None = None
    excluded: Mapping[str, int] = field(default_factory=dict)
