"""Options made from base's own free answer: that answer as gold, and versions of it with one error each.

They exist only once base has answered, and depend on the study's seed, the item and base's text alone, so that every arm
is given the same ones, whatever process asks it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from anomia.items.build import ordered
from anomia.items.data_set import DataSet
from anomia.items.item import Item, Question
from anomia.items.task_rows import WRONG_OPTIONS
from anomia.loops import is_text_loop
from anomia.probes import OWN, STANDARD
from anomia.text import normalize


class OwnOptions(NamedTuple):
    """gold: the graded part of base's answer. texts: all options in the order shown; empty if no edit is possible."""

    gold: str
    texts: tuple[str, ...]


def own_options(question: Question, output: str, data: DataSet | None, *, seed: int) -> OwnOptions:
    """The options made from an output of base.

    Each wrong option differs from base's answer and from the others once normalized, and scores lower than base's answer
    under the task's grader. There are none if fewer than two such edits exist, or the answer is empty or a loop.
    """
    if data is None or data.own is None or data.task is None:
        return OwnOptions("", ())
    text, versions = data.own(output, question, random.Random(f"{OWN}:{seed}:{question.id}"))
    if not normalize(text) or is_text_loop(text):
        return OwnOptions(text, ())
    score = data.task.grade(text, question).score
    wrong: dict[str, str] = {}
    for version in versions:
        key = normalize(version)
        if key and key != normalize(text) and data.task.grade(version, question).score < score:
            wrong.setdefault(key, version)
        if len(wrong) == WRONG_OPTIONS:
            break
    if len(wrong) < 2:
        return OwnOptions(text, ())
    return OwnOptions(text, ordered(_answered_by(question, text), tuple(wrong.values()), OWN, seed))


def own_item(item: Item, options: OwnOptions) -> Item:
    """The item with base's answer as its answer and these options as its standard ones, as an arm is asked them."""
    wrong = next(text for text in options.texts if text != options.gold)
    return Item(_answered_by(item.question, options.gold), {STANDARD: options.texts}, control=wrong)


def _answered_by(question: Question, text: str) -> Question:
    return replace(question, answers=(text,))
