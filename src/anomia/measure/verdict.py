"""One outcome for an arm: what compression took, decided by interval bounds against margins.

A drop *holds* if its interval ends at or below the margin, *falls* if it doesn't hold and the interval lies above 0,
and is *undecided* otherwise. "Open falls and choice holds" is not yet a difference between them (one change is
significant, the other equivalent to zero), so every directional outcome also needs the gap's interval on one side
of 0:

                 choice holds                      choice falls                            choice undecided
    open holds   intact                            reverse if the gap lies below 0         inconclusive
    open falls   illusion, demotion if the gap     see below                               inconclusive
                 lies above 0
    undecided    inconclusive                      reverse if the gap lies below 0         inconclusive

and *inconclusive* where the gap's condition is not met. Where both fall: loss if `lost`, corrected for guessing,
dominates; else mixed if the gap lies above 0, reverse if below, loss if the gap ends at or below its margin,
inconclusive otherwise. Before all that: broken, untestable, and intact where every recorded probability is base's own.

What is claimed of several languages, or by several signs of nearness, is corrected by Holm's method: `gather` says
which differences stand after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

from anomia.errors import StudyError, nearest
from anomia.measure.drops import QUARTER
from anomia.measure.fates import FEWEST_BOTH_CORRECT, FateCounts
from anomia.measure.outcomes import Outcome
from anomia.measure.power import items_needed
from anomia.measure.rates import Estimate

State = Literal["holds", "falls", "undecided"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Margins of the verdict, each an option of a study.

    hold: the largest normalized drop that still counts as holding.
    same_gap: the largest gap at which open counts as not having fallen more than choice.
    lost: share of the items no longer said, above which being lost dominates, corrected for guessing.
    near: by how much the answer must be nearer than its control, and than answers that base never gave, to speak of
        demotion.
    broken: share of the outputs that are sound in base and in the arm are empty, loop or are not a number.
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
            raise StudyError(f"threshold: {name} must be between {least:g} and {most:g}; got {value}")
    return Thresholds(**found)  # type: ignore[arg-type]  # each value has the type of its field


class Nearness(NamedTuple):
    """One sign that a choice-only answer is still near the top.

    over_control: gold − its control (a wrong option in its place); for one example: the raw drop of open at 0 shot −
    at 1 shot, which has base for a reference already. over_failures: those answers − the answers that base never gave
    (the paper's comparison); None where the sign has none. stands: both lie above `near` after Holm's correction over
    the signs, on enough items for validated intervals.
    """

    over_control: Estimate
    over_failures: Estimate | None = None
    stands: bool = True


# What a verdict may claim a difference of.
CLAIMS = frozenset({"open", "choice", "gap"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict rests on, for one arm in one language or overall.

    base_open, arm_open, base_choice, arm_choice: accuracies over `n` items.
    open_drop, choice_drop, gap: normalized; None where base is too near the floor.
    lost: share of `lost` among the both-correct items that open lost (`lost` and `choice_only`).
    floor: what guessing scores in choice.
    near: signs that the answer is near, by name.
    broken: of the outputs that are sound in base, the share that is not a number, empty, degenerate or loops.
    identical: every recorded probability of the arm equals base's.
    left_out: languages that are not in these figures because base is too weak there.
    raw_gap: the drop of open − that of choice, in raw points. net: net dissociation.
    stands: which of the drops and the gap differ from 0 after correction for several languages.
    recognised: whether these options show recognition; else demotion is not claimed.
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
    near: Mapping[str, Nearness] = field(default_factory=dict)
    broken: Estimate | None = None
    identical: bool = False
    left_out: tuple[str, ...] = ()
    raw_gap: Estimate | None = None
    net: Estimate | None = None
    stands: frozenset[str] = CLAIMS
    recognised: bool = True


class Decision(NamedTuple):
    """An outcome and why.

    open, choice: what the two drops do. possible: what an inconclusive outcome may still turn out to be.
    near: the signs that show the answer near. items_needed: items at which the intervals would decide
    with 80 % power if the figures stayed what they are; None where nothing is open or none would.
    alike: of a loss, that both formats lost about the same share; else most of what open lost is lost to both.
    """

    outcome: Outcome
    open: State
    choice: State
    possible: tuple[Outcome, ...] = ()
    near: tuple[str, ...] = ()
    items_needed: int | None = None
    alike: bool = False


def decide(evidence: Evidence, thresholds: Thresholds | None = None) -> Decision:
    """The one outcome that the evidence has."""
    limits = thresholds or Thresholds()
    opened = state(evidence.open_drop, limits.hold, stands="open" in evidence.stands)
    chosen = state(evidence.choice_drop, limits.hold, stands="choice" in evidence.stands)
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
    gap = _Gap.of(evidence.gap, limits, stands="gap" in evidence.stands)
    lost = lost_dominates(evidence, limits)
    outcome = _by_states(opened, chosen, gap, lost=lost)
    if outcome == "illusion":
        near = tuple(name for name, sign in evidence.near.items() if evidence.recognised and sign.stands)
        return Decision("demotion" if near else "illusion", opened, chosen, near=near)
    if outcome == "inconclusive":
        possible = _possible(evidence, limits)
        return Decision(
            outcome, opened, chosen, possible, items_needed=_items(evidence, opened, chosen, limits)
        )
    return Decision(outcome, opened, chosen, alike=outcome == "loss" and not lost)


def state(drop: Estimate | None, hold: float, *, stands: bool = True) -> State:
    """What a drop's interval says; an absent one says nothing. stands: whether its distance from 0 is not chance."""
    if drop is None:
        return "undecided"
    if drop.high <= hold:
        return "holds"
    return "falls" if drop.low > 0 and stands else "undecided"


def lost_dominates(evidence: Evidence, thresholds: Thresholds) -> bool:
    """Whether most of what open lost is lost to choice too.

    A lost answer is still picked by guessing in one of k cases, so the share seen is (k − 1)/k, which is
    1 − the floor, of the share that is lost.
    """
    if evidence.lost is None:
        return False
    return evidence.lost.low / (1 - evidence.floor) > thresholds.lost


class _Gap(NamedTuple):
    """What the gap's interval says: open lost the larger share, the smaller, or at most the margin more."""

    above: bool
    below: bool
    alike: bool

    @staticmethod
    def of(gap: Estimate, limits: Thresholds, *, stands: bool = True) -> _Gap:
        return _Gap(gap.low > 0 and stands, gap.high < 0 and stands, gap.high <= limits.same_gap)


def _by_states(opened: State, chosen: State, gap: _Gap, *, lost: bool) -> Outcome:
    """The outcome of the table above."""
    if chosen == "holds" and opened == "holds":
        return "intact"
    if chosen == "holds":
        return "illusion" if opened == "falls" and gap.above else "inconclusive"
    if chosen == "falls" and opened == "falls" and lost:
        return "loss"
    if chosen == "falls" and gap.below:
        return "reverse"
    if chosen == "falls" and opened == "falls" and (gap.above or gap.alike):
        return "mixed" if gap.above else "loss"
    return "inconclusive"


def _possible(evidence: Evidence, limits: Thresholds) -> tuple[Outcome, ...]:
    """What an inconclusive outcome may turn out to be: the outcomes of all truths inside the intervals."""
    sides: list[list[State]] = []
    for drop in (evidence.open_drop, evidence.choice_drop):
        assert drop is not None
        may: dict[State, bool] = {"holds": drop.low <= limits.hold, "falls": drop.high > limits.hold}
        sides.append([each for each, possible in may.items() if possible])
    assert evidence.gap is not None
    gaps = [_Gap(above=False, below=False, alike=evidence.gap.low <= limits.same_gap)]
    if evidence.gap.high > 0:
        gaps.append(_Gap(above=True, below=False, alike=False))
    if evidence.gap.low < 0:
        gaps.append(_Gap(above=False, below=True, alike=True))
    most_lost = 0.0 if evidence.lost is None else evidence.lost.high / (1 - evidence.floor)
    losts = {lost_dominates(evidence, limits), most_lost > limits.lost}
    found = {
        _by_states(one, other, gap, lost=lost)
        for one in sides[0]
        for other in sides[1]
        for gap in gaps
        for lost in losts
    }
    order: tuple[Outcome, ...] = ("intact", "illusion", "mixed", "loss", "reverse")
    # Intervals that contradict each other leave nothing: then nothing is ruled out.
    return tuple(outcome for outcome in order if outcome in found) or order


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
