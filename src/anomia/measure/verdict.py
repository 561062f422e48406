"""One outcome for an arm: what compression took, decided by interval bounds against margins.

A drop *holds* if its interval ends at or below the margin, *falls* if it doesn't hold and the interval
lies above 0, and is *undecided* otherwise. The outcomes follow from the two drops (rows: open):

                 choice holds         choice falls                              choice undecided
    open holds   intact               reverse                                   inconclusive
    open falls   illusion, demotion   loss, mixed, reverse or inconclusive      inconclusive
    undecided    inconclusive         reverse or inconclusive                   inconclusive

Where both fall: loss if `lost`, corrected for guessing, dominates; else mixed if the gap lies above 0,
reverse if below, loss if the gap ends at or below its margin, inconclusive otherwise. Before all that:
broken, untestable, and intact where every recorded probability is base's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

from anomia.errors import StudyError, nearest
from anomia.measure.drops import QUARTER
from anomia.measure.fates import FEWEST_BOTH_CORRECT, FateCounts
from anomia.measure.power import items_needed
from anomia.measure.rates import Estimate

Outcome = Literal[
    "intact", "illusion", "demotion", "mixed", "loss", "reverse", "untestable", "broken", "inconclusive"
]
State = Literal["holds", "falls", "undecided"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Margins of the verdict, each an option of a study.

    hold: the largest normalized drop that still counts as holding.
    same_gap: the largest gap at which open counts as not having fallen more than choice.
    lost: share of the items no longer said, above which being lost dominates, corrected for guessing.
    near: by how much gold must be nearer than its foil to speak of demotion.
    broken: how many more of the arm's outputs than of base's are empty or degenerate.
    fewest_both_correct: below this many there is nothing to follow.
    """

    hold: float = 0.10
    same_gap: float = 0.10
    lost: float = 0.5
    near: float = 0.0
    broken: float = 0.5
    fewest_both_correct: int = FEWEST_BOTH_CORRECT


# Of those that are no share from 0 to 1.
_RANGES = {"near": (-1.0, 1.0), "fewest_both_correct": (0.0, math.inf)}


def read_thresholds(settings: Iterable[str]) -> Thresholds:
    """Thresholds from settings such as `hold=0.05`; what is not named keeps its default.

    Raises:
        StudyError: a name is unknown, or a value is no number or out of its range.
    """
    names = [each.name for each in fields(Thresholds)]
    found: dict[str, float] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in names:
            raise StudyError(f"threshold: unknown name {name!r}; {nearest(name, names)}")
        try:
            found[name] = int(value) if name == "fewest_both_correct" else float(value)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise StudyError(f"threshold: {name} needs a number, as in {name}=0.1; got {value!r}")
        least, most = _RANGES.get(name, (0.0, 1.0))
        if not least <= found[name] <= most:
            raise StudyError(f"threshold: {name} lies between {least:g} and {most:g}; got {value}")
    return Thresholds(**found)  # type: ignore[arg-type]  # each value has the type of its field


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict rests on, for one arm in one language or overall.

    base_open, arm_open, base_choice, arm_choice: accuracies over `n` items.
    open_drop, choice_drop, gap: normalized; None where base is too near the floor.
    lost: share of `lost` among the both-correct items that open lost (`lost` and `choice_only`).
    floor: what guessing gets in choice.
    near: what shows the answer near, gold − foil (ranks, reach) or 0 shot − 1 shot, by name.
    broken: share of not-a-number, empty or degenerate outputs, the arm's − base's.
    identical: every recorded probability of the arm equals base's.
    left_out: languages that are not in these figures because base is too weak there.
    """

    n: int
    base_open: float
    arm_open: float
    base_choice: float
    arm_choice: float
    open_drop: Estimate | None
    choice_drop: Estimate | None
    gap: Estimate | None
    fates: FateCounts
    lost: Estimate | None
    floor: float = QUARTER
    near: Mapping[str, Estimate] = field(default_factory=dict)
    broken: Estimate | None = None
    identical: bool = False
    left_out: tuple[str, ...] = ()


class Decision(NamedTuple):
    """An outcome and why.

    open, choice: what the two drops do. possible: what an inconclusive outcome may still turn out to be.
    near: the evidence that shows the answer near. items_needed: items at which the intervals would decide
    with 80 % power if the figures stayed what they are; None where nothing is open or none would.
    """

    outcome: Outcome
    open: State
    choice: State
    possible: tuple[Outcome, ...] = ()
    near: tuple[str, ...] = ()
    items_needed: int | None = None


def decide(evidence: Evidence, thresholds: Thresholds | None = None) -> Decision:
    """The one outcome that the evidence has."""
    limits = thresholds or Thresholds()
    opened = state(evidence.open_drop, limits.hold)
    chosen = state(evidence.choice_drop, limits.hold)
    if evidence.broken is not None and evidence.broken.low > limits.broken:
        return Decision("broken", opened, chosen)
    if (
        evidence.open_drop is None
        or evidence.choice_drop is None
        or evidence.gap is None
        or evidence.fates.both_correct < limits.fewest_both_correct
    ):
        return Decision("untestable", opened, chosen)
    if evidence.identical:
        return Decision("intact", "holds", "holds")
    outcome, possible = _by_states(opened, chosen, evidence.gap, lost_dominates(evidence, limits), limits)
    if outcome == "illusion":
        near = tuple(name for name, estimate in evidence.near.items() if estimate.low > limits.near)
        return Decision("demotion" if near else "illusion", opened, chosen, near=near)
    if outcome == "inconclusive":
        return Decision(
            outcome, opened, chosen, possible, items_needed=_items(evidence, opened, chosen, limits)
        )
    return Decision(outcome, opened, chosen)


def state(drop: Estimate | None, hold: float) -> State:
    """What a drop's interval says; an absent one says nothing."""
    if drop is None:
        return "undecided"
    if drop.high <= hold:
        return "holds"
    return "falls" if drop.low > 0 else "undecided"


def lost_dominates(evidence: Evidence, thresholds: Thresholds) -> bool:
    """Whether most of what open lost is lost to choice too.

    A lost answer is still picked by guessing in one of k cases, so the share seen is (k − 1)/k, which is
    1 − the floor, of the share that is lost.
    """
    if evidence.lost is None:
        return False
    return evidence.lost.low / (1 - evidence.floor) > thresholds.lost


def _by_states(
    opened: State, chosen: State, gap: Estimate, lost: bool, limits: Thresholds
) -> tuple[Outcome, tuple[Outcome, ...]]:
    """The outcome of the table above, and what an inconclusive one may turn out to be."""
    if opened == "undecided" or chosen == "undecided":
        if chosen == "falls" and gap.high < 0:
            return "reverse", ()
        return "inconclusive", _possible(opened, chosen, gap)
    if chosen == "holds":
        return ("intact" if opened == "holds" else "illusion"), ()
    if opened == "holds":
        return "reverse", ()
    if lost:
        return "loss", ()
    if gap.low > 0:
        return "mixed", ()
    if gap.high < 0:
        return "reverse", ()
    if gap.high <= limits.same_gap:
        return "loss", ()
    return "inconclusive", ("mixed", "loss")


def _possible(opened: State, chosen: State, gap: Estimate) -> tuple[Outcome, ...]:
    """What is left of holds × falls when one or both states are undecided."""
    left: dict[Outcome, None] = {}
    for open_falls in (False, True):
        for choice_falls in (False, True):
            if opened == ("holds" if open_falls else "falls") or chosen == (
                "holds" if choice_falls else "falls"
            ):
                continue
            if not choice_falls:
                left["illusion" if open_falls else "intact"] = None
            elif not open_falls:
                left["reverse"] = None
            else:
                left["mixed"] = None
                if gap.low <= 0:
                    left["loss"] = None
    return tuple(left)


def _items(evidence: Evidence, opened: State, chosen: State, limits: Thresholds) -> int | None:
    """Items that would decide all that is undecided."""
    needs: list[int | None] = []
    for drop, told in ((evidence.open_drop, opened), (evidence.choice_drop, chosen)):
        if told == "undecided" and drop is not None:
            needs.append(_nearest(drop, low=0.0, high=limits.hold))
    if not needs and evidence.gap is not None:
        needs.append(_nearest(evidence.gap, low=0.0, high=limits.same_gap))
    known = [need for need in needs if need is not None]
    return max(known) if known and len(known) == len(needs) else None


def _nearest(estimate: Estimate, *, low: float, high: float) -> int | None:
    """Items until an interval lies above `low` or below `high`, whichever comes first."""
    needs = []
    if estimate.value > low:
        needs.append(items_needed(estimate, low))
    if estimate.value < high:
        needs.append(items_needed(estimate, high))
    known = [need for need in needs if need is not None]
    return min(known) if known else None
