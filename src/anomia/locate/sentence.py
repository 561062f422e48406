"""The result of locating in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomia.locate.attribution import (
    Attribution,
)
from anomia.locate.cases import LocatedItem
from anomia.locate.curves import (
    ATTRIBUTION,
    GOAL,
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

LISTED = 5
"""How many unreliable items, or matrices, a note names."""
FEW = 8
"""How many items should give an order at least."""


class Alone(NamedTuple):
    """What base's weights in one block alone bring back. share: of the differing weights."""

    block: int
    returned: float
    share: float


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
    notes += _unreliable(found, order, words)
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


def _unreliable(found: Attribution, order: Sequence[LocatedItem], words: ItemWords) -> list[str]:
    """Which items' shares don't add up, by id."""
    named = [
        case.candidate.item_id
        if case.candidate.index is None
        else f"{case.candidate.item_id} at {case.candidate.index}"
        for case, unreliable in zip(order, found.unreliable, strict=True)
        if unreliable
    ]
    if not named:
        return []
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    demoted = np.array([case.candidate.group == "demoted" for case in order], dtype=bool)
    left = int((demoted & ~found.unreliable).sum())
    rescaled = (
        "; as many as that are typical of models that differ by scales, rotations or the order of channels (AWQ, "
        "SmoothQuant, QuaRot): weights of one don't fit into the other, and no mixture of them says much"
    )
    use = (
        "they count neither in the order nor in shares, intervals and rank agreement"
        if (demoted & ~found.unreliable).any()
        else f"none of the {words.demoted} is left, so that these count all the same: don't trust the order"
    )
    return [
        f"the shares of {len(named)} of {len(order)} {words.many} leave more than 30 % of their change unexplained; "
        f"{use} (`unreliable` in items.parquet: {', '.join(named[:LISTED])}{more}); more --points make shares add "
        f"up better{rescaled if len(named) > len(order) / 2 else ''}",
        *([f"only {counted(left, f'demoted {words.one}')} give the order"] if 0 < left < FEW else []),
    ]


def silent_of(units: Sequence[WeightUnit], unreached: NDArray[np.bool_]) -> list[str]:
    """What attribution can't see. unreached: [units]."""
    without = [unit.name for unit, silent in zip(units, unreached, strict=True) if silent]
    if not without:
        return []
    share = small_percent(share_of(without, units))
    return [
        f"no gradient reaches {counted(len(without), 'matrix', 'matrices')} with {share} of the differing weights "
        f"({', '.join(without[:LISTED])}{' and others' if len(without) > LISTED else ''}): attribution says nothing of "
        "these, and they come last in its order"
    ]


def broken_of(readings: pl.DataFrame) -> list[str]:
    """How many answers of mixtures were not finite."""
    broken = int(readings["rank"].is_null().sum())
    if not broken:
        return []
    return [
        f"{broken} of {len(readings)} answers of mixtures had logits that are NaN or infinite; they count as wrong"
    ]


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
    if apart["answers_distance"] is not None and math.isfinite(apart["answers_distance"]):
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
    ahead: Estimate | None,
    chance: Estimate,
    found: bool,
    items: str,
    differing: float = 1.0,
    alone: Alone | None = None,
) -> str:
    """The result in plain words.

    place: the units of the leading order that bring half back. leader: attribution, or the change of outputs.
    ahead: how much more of the weights the change of outputs needs than attribution; None if that isn't known.
    chance: how much more of the weights a random order needs than the leader.
    items: the deciding items and their count. differing: the share of the whole model's weights that differ.
    alone: the block that brings half of them back alone, if one does.
    """
    if len(units) == 1:
        return (
            f"The models differ in {_named(units[0])} alone, {small_percent(differing)} of their weights: "
            "the damage is there."
        )
    mine = halves[leader]
    weights = "weights" if differing >= 1 else "differing weights"
    beside = _against_outputs(halves, ahead, found=found)
    if differing <= GOAL:
        return _narrow(mine, place, units, differing, leader=leader, beside=beside)
    needs = f"{small_percent(mine.value)} of the {weights} ({_interval(mine)})"
    if not found:
        why = []
        if mine.value >= 1:
            why.append(f"no share tried brings half of the {items} back, only all of the {weights}")
        elif mine.value > GOAL:
            why.append(f"bringing half of the {items} back takes {needs}")
        if chance.low <= 0:
            why.append(
                f"a random order may need no more ({small_percent(halves[RANDOM].value)}; the difference of "
                f"{_points(chance.value)} points has an interval from {_points(chance.low)} to "
                f"{_points(chance.high)})"
            )
        said = f"Diffuse: {', and '.join(why)}."
        if alone is not None:
            said = (
                f"Diffuse by every order: {', and '.join(why)}. But base's weights in block {alone.block} alone "
                f"({small_percent(alone.share)}) bring {percent(alone.returned)} back: look there first."
            )
        return f"{said} {beside}"
    ordered = ", in the order of changed outputs" if leader == MOVED else ""
    enough = "is" if len(place) == 1 else "are"
    return (
        f"Half of what was demoted comes back with {needs}{ordered}: {described(place, units)} {enough} enough "
        f"({small_percent(share_of(place, units))}). {beside}"
    )


def _named(unit: WeightUnit) -> str:
    """A unit by its whole name, and what it is if that is not a matrix."""
    return unit.name if unit.kind == "matrix" else f"{unit.name} ({unit.kind})"


def small_percent(share: float) -> str:
    """A share in whole per cent; a share below one per cent in words, so that it isn't taken for none.

    >>> small_percent(0.0006), small_percent(0.023), small_percent(0.0)
    ('less than 1 %', '2 %', '0 %')
    """
    return "less than 1 %" if 0 < share < 0.01 else percent(share)


def _interval(share: Estimate) -> str:
    """The interval of a share: `interval 2 % to 5 %`; in words where every resample says the same."""
    if share.low == share.high:
        return "the same on any resampled passages"
    return f"interval {small_percent(share.low)} to {small_percent(share.high)}"


def _against_outputs(halves: Mapping[str, Estimate], ahead: Estimate | None, *, found: bool) -> str:
    """Whether attribution beats the change of outputs, with the interval of the difference."""
    if ahead is None:
        return (
            "Whether attribution beats the change of outputs is not known: some of the weights have no output of "
            "their own."
        )
    saved = f"{_points(ahead.value)} points of the weights ({_points(ahead.low)} to {_points(ahead.high)})"
    if ahead.low > 0:
        return f"Attribution beats the change of outputs: it saves {saved}."
    if ahead.high < 0:
        more = (
            f"{_points(-ahead.value)} points of the weights ({_points(-ahead.high)} to {_points(-ahead.low)})"
        )
        return f"The change of outputs beats attribution: it saves {more}."
    if found and halves[MOVED].value <= max(GOAL, halves[ATTRIBUTION].value):
        return f"The change of outputs finds it as well: attribution saves {saved}."
    return f"Attribution does not clearly beat the change of outputs: it saves {saved}."


def _points(difference: float) -> str:
    """A difference of two shares in points, as in `−3`; of less than one point with a digit."""
    points = 100 * difference
    digits = 1 if 0.05 <= abs(points) < 0.95 else 0
    return f"{round(points, digits) + 0.0:.{digits}f}".replace("-", "−")


def _narrow(
    half: Estimate,
    place: Sequence[str],
    units: Sequence[WeightUnit],
    differing: float,
    *,
    leader: str,
    beside: str,
) -> str:
    """The result where the models differ in few weights, so that these are the place, whatever an order finds."""
    where = described([unit.name for unit in units], units)
    few = f"only {percent(differing)}" if differing >= 0.01 else "less than 1 %"
    text = f"The models differ in {few} of their weights: {where}."
    share = share_of(place, units)
    if share >= 1:
        return f"{text} Only all of them together brought half of what was demoted back."
    ordered = "changed outputs" if leader == MOVED else "attribution"
    enough = "is" if len(place) == 1 else "are"
    return (
        f"{text} Of these, {small_percent(half.value)} ({_interval(half)}) bring half of what was demoted "
        f"back, in the order of {ordered}: {described(place, units)} {enough} enough ({small_percent(share)}). {beside}"
    )


def described(names: Sequence[str], units: Sequence[WeightUnit]) -> str:
    """Units in words, by their place in the blocks: `down_proj of blocks 2 to 5, o_proj of block 7`."""
    chosen = set(names)
    # Where the last part of a name stands for several matrices of a block, all of it is said.
    ends: dict[str, set[str]] = {}
    for unit in units:
        if unit.block is not None:
            ends.setdefault(unit.place.rpartition(".")[2], set()).add(unit.place)
    blocks: dict[str, list[int]] = {}
    outside = []
    for unit in units:
        if unit.name not in chosen:
            continue
        if unit.block is None:
            outside.append(unit.name)
        else:
            end = unit.place.rpartition(".")[2]
            blocks.setdefault(end if len(ends[end]) == 1 else unit.place, []).append(unit.block)
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
