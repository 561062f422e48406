"""Demoted and kept positions of base's long answers, from the records of a run.

At a demoted position base ranks its own token first, and the compressed model, taken along the same answer, ranks it
second to tenth; at a kept one both rank it first. Positions from base's first repetition on don't count, as in the
figures along base's answers.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import numpy as np
import polars as pl

from anomia.locate.cases import AnswerPosition, Group
from anomia.measure.long_answers import DEMOTED, before_copies
from anomia.probes import CONTINUATION

Key = tuple[str, str]
"""Language and item id."""
NEAR = 8
"""A kept position may always be this many tokens from its demoted one; deeper in an answer, half of the depth."""


def find_positions(
    pairs: pl.DataFrame, *, per_answer: int, seed: int
) -> dict[Key, list[tuple[Group, AnswerPosition]]]:
    """The first demoted positions of each long answer, and for each of them a kept one at a similar depth.

    Args:
        pairs: base's rows with those of an arm (`anomia.measure.frame.pair`).
        per_answer: maximum number of demoted positions per answer.
        seed: of the choice of kept positions.
    """
    names = ("ids", "ranks", "ranks_arm", "top_tokens")
    rows = pairs.with_columns(before_copies("ranks")).select(
        "language", "item_id", *(f"{CONTINUATION}_{name}" for name in names)
    )
    found = {}
    for language, item_id, ids, own, ranks, tops in rows.iter_rows():
        if ids is None or own is None or ranks is None:
            continue
        size = min(len(own), len(ranks))
        before, after = np.array(own[:size]), np.array(ranks[:size])
        first = before == 1
        demoted = np.flatnonzero(first & (after > 1) & (after <= DEMOTED))[:per_answer].tolist()
        chance = random.Random(f"{seed} {language} {item_id}")
        kept = kept_beside(demoted, np.flatnonzero(first & (after == 1)).tolist(), chance)
        groups: tuple[tuple[Group, Sequence[int]], ...] = (("demoted", demoted), ("kept", kept))
        found[language, item_id] = [
            (
                group,
                AnswerPosition(tuple(ids[:index]), ids[index], tuple(tops[index]) if tops else ()),
            )
            for group, indices in groups
            for index in indices
        ]
    return found


def kept_beside(demoted: Sequence[int], kept: Collection[int], chance: random.Random) -> list[int]:
    """For each demoted position, a random kept one at a similar depth, if one is left. None is taken twice.

    >>> kept_beside([20], [3, 21, 90], random.Random(0))
    [21]
    """
    left, taken = set(kept), []
    for index in demoted:
        reach = max(NEAR, index // 2)
        near = sorted(each for each in left if abs(each - index) <= reach)
        if near:
            taken.append(chance.choice(near))
            left.remove(taken[-1])
    return taken
