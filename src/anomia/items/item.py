"""The types that pass between readers, distractors, prompts and probes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Message(NamedTuple):
    """One message of a conversation. role: `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a data set. `answers[0]` is gold; the others are accepted too.

    distractors: wrong options that the data set brings (up to 25); they replace drawn ones.
    passage_distractors: wrong options from the same passage that it brings. Either may be empty.
    target: what a task's grader needs besides the answers, as JSON; empty for questions with a short answer.
    as_is: a prompt that is sent without any other words. It has no options, and `answers` may be empty.
    messages: the conversation of such a prompt, for the chat template; empty if `question` is all of it.
    kind: of task, such as `translation`; empty if the data set doesn't tell.
    """

    id: str
    language: str
    context: str
    question: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    passage_distractors: tuple[str, ...] = ()
    target: str = ""
    as_is: bool = False
    messages: tuple[Message, ...] = ()
    kind: str = ""

    @property
    def gold(self) -> str:
        """The answer used for options, ranks and log probabilities; empty if there is none."""
        return self.answers[0] if self.answers else ""

    @property
    def passage_id(self) -> str:
        """A hash of the passage. Questions that share it are not independent; questions without context share none."""
        text = self.context or self.id
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Item:
    """A question with everything drawn for it.

    options: texts by kind (`standard`, `hard`, `passage`) in the order shown, including gold. There are four, or
        as many as the question brings; a kind that could not be filled is absent.
    unrelated: four candidates unrelated to the question.
    control: a wrong option that the measures of rank and oracle recovery use in gold's place.
    """

    question: Question
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unrelated: tuple[str, ...] = ()
    control: str = ""


@dataclass(frozen=True, slots=True)
class ItemSet:
    """The items of one language of a data set, in their fixed order, and counts of what was excluded.

    exemplar: the question that one-shot prompts show, not among the items; None if there is none.
    excluded: number of questions or options excluded, by reason. `repeated` questions are counted but stay in.
    """

    dataset: str
    language: str
    items: tuple[Item, ...]
    exemplar: Question | None = None
    excluded: Mapping[str, int] = field(default_factory=dict)
