"""The result of locating in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from anomia.locate.attribution import (
    Attribution,
)
from anomia.locate.cases import LocatedItem
from anomia.locate.curves import (
    ATTRIBUTION,
    GOAL,
    HALF,
    MOVED,
    RANDOM,
)
from anomia.locate.located import Directions, disagreement
from anomia.locate.pairs import WeightUnit
from anomia.locate.prepare import Subjects
from anomia.locate.restore import (
    share_of,
)
from anomia.locate.words import ItemWords
from anomia.measure.bootstrap import FloatArray
from anomia.measure.rates import Estimate
from anomia.words import counted, percent


def notes_of(
    subjects: Subjects,
    found: Attribution,
    order: Sequence[LocatedItem],
    right: FloatArray,
    words: ItemWords,
) -> list[str]:
    """What a reader should know before the figures. right: of the demoted items that decide: [items, points]."""
    notes = []
    if subjects.lacking:
        notes.append(f"{counted(subjects.lacking, words.one)} excluded: {words.excluded}")
    unreliable = int(found.unreliable.sum())
    if unreliable:
        notes.append(
            f"the shares of {unreliable} of {len(order)} {words.many} leave more than 30 % of their change "
            "unexplained; they give no order (`unreliable` in items.parquet), and more --points make "
            "shares add up better"
        )
    if len(right) < 30:
        notes.append(
            f"only {counted(len(right), f'demoted {words.one}')} decide: each is {percent(1 / len(right))} "
            "of the result"
        )
    flipped = int((right[:, 0] > 0).sum()), int((right[:, -1] < 1).sum())
    if any(flipped):
        notes.append(words.again.format(*flipped))
    without = int(np.isnan(found.moved).any(axis=0).sum())
    if without:
        notes.append(
            f"‖ΔX‖ is not known for {counted(without, 'matrix', 'matrices')}, which come last in its order; "
            "attribution is compared with random orders instead"
        )
    if found.by_gradient:
        notes.append(
            f"{counted(len(found.by_gradient), 'parameter')} needed gradients of their own, one item at a time"
        )
    return notes


def evidence_of(
    found: Attribution,
    agreement: Estimate | None,
    directions: Sequence[Directions],
    kept: int,
    words: ItemWords,
) -> list[str]:
    """How well the parts of the evidence agree, as notes. kept: how many kept items decide."""
    notes = [
        f"of an item's change, {percent(float(np.median(np.abs(found.residuals))))} is missing from the sum "
        "of its shares (median)"
    ]
    if agreement is not None:
        notes.append(
            "two halves of the ordering items rank the matrices with a correlation of "
            f"{agreement.value:.2f} [{agreement.low:.2f}, {agreement.high:.2f}]".replace("-", "−")
        )
    apart = disagreement(directions)
    if apart["answers_distance"] is not None:
        alone = max(each.answers_alone for each in directions)
        lost = max(each.answers_lost for each in directions)
        notes.append(
            f"one block of base's weights alone brings back {percent(alone)} of the {words.many} at most, "
            f"one compressed block alone in base loses {percent(lost)} at most; both directions differ by "
            f"{100 * apart['answers_distance']:.0f} points on average"
        )
    if kept < 10:
        notes.append(f"only {counted(kept, f'kept {words.one}')} to compare with the demoted ones")
    return notes


def sentence_of(
    halves: Mapping[str, Estimate],
    place: Sequence[str],
    units: Sequence[WeightUnit],
    *,
    leader: str,
    beaten: bool | None,
    chance: Estimate,
    found: bool,
    items: str,
    differing: float = 1.0,
) -> str:
    """The result in plain words.

    place: the first units of the leading order. leader: attribution, or the change of outputs.
    beaten: whether attribution needs clearly fewer weights than the change of outputs; None if that isn't known.
    chance: how much more of the weights a random order needs than the leader.
    items: the deciding items and their count. differing: the share of the whole model's weights that differ.
    """
    if differing <= GOAL:
        return _narrow(halves[leader], place, units, differing, leader=leader)
    mine = halves[leader]
    needs = f"{percent(mine.value)} of the weights ({percent(mine.low)} to {percent(mine.high)})"
    if not found:
        why = []
        if mine.value > GOAL:
            why.append(f"bringing half of the {items} back takes {needs}")
        if chance.low <= 0:
            why.append(
                f"a random order may need no more ({percent(halves[RANDOM].value)}; the difference of "
                f"{_points(chance.value)} points has an interval from {_points(chance.low)} to "
                f"{_points(chance.high)})"
            )
        return f"Diffuse: {', and '.join(why)}."
    ordered = ", in the order of changed outputs" if leader == MOVED else ""
    text = (
        f"Half of what was demoted comes back with {needs}{ordered}. The first {percent(share_of(place, units))} are "
        f"{described(place, units)}."
    )
    if leader == MOVED:
        text += f" The order by attribution takes {percent(halves[ATTRIBUTION].value)}."
    elif beaten is False:
        text += f" The order of changed outputs finds them as well ({percent(halves[MOVED].value)} of the weights)."
    return text


def _points(difference: float) -> str:
    """A difference of two shares in points, as in `−3`."""
    return f"{100 * difference:.0f}".replace("-", "−")


def _narrow(
    half: Estimate, place: Sequence[str], units: Sequence[WeightUnit], differing: float, *, leader: str
) -> str:
    """The result where the models differ in few weights, so that these are the place, whatever an order finds."""
    where = described([unit.name for unit in units], units)
    few = f"only {percent(differing)}" if differing >= 0.01 else "less than 1 %"
    text = f"The models differ in {few} of their weights: {where}."
    share = share_of(place, units)
    if share >= 1 or half.value > HALF:
        return text
    ordered = "changed outputs" if leader == MOVED else "attribution"
    return (
        f"{text} Of these, {percent(half.value)} ({percent(half.low)} to {percent(half.high)}) bring half "
        f"of what was demoted back, in the order of {ordered}; the first are {described(place, units)}."
    )


def described(names: Sequence[str], units: Sequence[WeightUnit]) -> str:
    """Units in words, by their place in the blocks: `down_proj of blocks 2 to 5, o_proj of block 7`."""
    chosen = set(names)
    blocks: dict[str, list[int]] = {}
    outside = []
    for unit in units:
        if unit.name not in chosen:
            continue
        if unit.block is None:
            outside.append(unit.name)
        else:
            blocks.setdefault(unit.place.rpartition(".")[2], []).append(unit.block)
    parts = [f"{place} of {_blocks(sorted(set(found)))}" for place, found in blocks.items()]
    return ", ".join([*parts, *outside])


def _blocks(numbers: Sequence[int]) -> str:
    """Block numbers with runs joined.

    >>> _blocks([2, 3, 4, 7])
    'blocks 2 to 4 and 7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        str(run[0])
        if len(run) == 1
        else f"{run[0]} to {run[-1]}"
        if len(run) > 2
        else f"{run[0]} and {run[1]}"
        for run in runs
    ]
    whole = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"block{'' if len(numbers) == 1 else 's'} {whole}"
