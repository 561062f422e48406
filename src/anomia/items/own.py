"""Options made from base's own free answer: that answer as gold, and versions of it with one error each.

They exist only once base has answered, and depend on the study's seed, the item and base's text alone, so that every
arm is given the same ones, whatever process asks it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from anomia.items.build import ordered
from anomia.items.data_set import DataSet
from anomia.items.edits import shortened
from anomia.items.item import Item, Question
from anomia.items.task_rows import WRONG_OPTIONS
from anomia.loops import is_text_loop
from anomia.probes import OWN, STANDARD
from anomia.text import normalize

LEAST = 2
"""The fewest wrong options."""


class OwnOptions(NamedTuple):
    """gold: the graded part of base's answer. texts: all options in the order shown; empty if no edit is possible."""

    gold: str
    texts: tuple[str, ...]


def own_options(question: Question, output: str, data: DataSet | None, *, seed: int) -> OwnOptions:
    """The options made from an output of base.

    Each wrong option differs from base's answer and from the others once normalized, and scores lower than base's
    answer under the task's grader. There are none if fewer than two such edits exist, or the answer is empty or a loop.
    """
    task = None if data is None else data.task
    if data is None or data.own is None or task is None:
        return OwnOptions("", ())
    draw = random.Random(f"{OWN}:{seed}:{question.id}")
    text, versions = data.own(output, question, draw)
    if not normalize(text) or is_text_loop(text):
        return OwnOptions(text, ())
    score = task.grade(text, question).score
    wrong: dict[str, str] = {}

    def take(candidates: Iterable[str], wanted: int) -> None:
        for version in candidates:
            key = normalize(version)
            if len(wrong) >= wanted:
                break
            if key not in ("", normalize(text)) and task.grade(version, question).score < score:
                wrong.setdefault(key, version)

    take(versions, WRONG_OPTIONS)
    # Words left out at random often read so badly that the choice is easy.
    take(shortened(text, draw), LEAST)
    if len(wrong) < LEAST:
        return OwnOptions(text, ())
    return OwnOptions(text, ordered(_answered_by(question, text), tuple(wrong.values()), OWN, seed))


def own_item(item: Item, options: OwnOptions) -> Item:
    """The item with base's answer as its answer and these options as its standard ones, as an arm is asked them."""
    wrong = next(text for text in options.texts if text != options.gold)
    return Item(_answered_by(item.question, options.gold), {STANDARD: options.texts}, control=wrong)


def _answered_by(question: Question, text: str) -> Question:
    return replace(question, answers=(text,))
