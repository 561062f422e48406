"""One outcome per arm: what compression took, decided by interval bounds against margins.

A drop *holds* if its interval ends at or below the margin, *falls* if it doesn't hold and the interval is above 0,
and is *undecided* otherwise. "Open falls and choice holds" does not yet show a difference between the two (one change
is significant, the other equivalent to zero), so every directional outcome also needs the gap's interval to be on one
side of 0:

                 choice holds                      choice falls                            choice undecided
    open holds   intact                            reverse if the gap is below 0           inconclusive
    open falls   illusion (demotion if near)       see below                               inconclusive
                 if the gap is above 0
    undecided    inconclusive                      reverse if the gap is below 0           inconclusive

If the gap's condition is not met, the outcome is *inconclusive*. If both fall: loss if `lost`, corrected for guessing,
dominates; else mixed if the gap is above 0, reverse if it is below, loss if it ends at or below its margin, and
inconclusive otherwise. Checked first: broken, untestable, and intact if every recorded probability equals base's.

Claims about several languages, or by several signs of nearness, are corrected by Holm's method: `gather` says
which differences survive it.
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
    lost: share of the items no longer answered, corrected for guessing, above which being lost dominates.
    near: by how much the answer must be nearer than its control, and than answers that base never gave, for demotion.
    broken: share of the outputs that are sound in base and in the arm empty, looping or not a number.
    score: the largest drop of a task's score that still counts as not worse (`anomia.measure.scores`).
    fewest_both_correct: with fewer both-correct items, there is nothing to follow.
    """

    hold: float = 0.10
    same_gap: float = 0.10
    lost: float = 0.5
    near: float = 0.0
    broken: float = 0.5
    score: float = 0.05
    fewest_both_correct: int = FEWEST_BOTH_CORRECT


# With fewer outputs that are sound in base, nothing is called broken.
FEWEST_SOUND = 10
# Ranges of the thresholds that are not shares from 0 to 1.
_RANGES = {"near": (-1.0, 1.0), "fewest_both_correct": (0.0, math.inf)}


def read_thresholds(settings: Iterable[str]) -> Thresholds:
    """Thresholds from settings such as `hold=0.05`; unnamed ones keep their defaults.

    Raises:
        StudyError: a name is unknown, or a value is not a number or out of range.
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
    """One sign that an answer that is only picked is still near the top."""

    over_control: Estimate
    """Gold − a wrong option in its place; for one example, the raw drop at 0 shot − at 1 shot, which refers to base."""
    over_failures: Estimate | None = None
    """The share among those answers − the share among answers that base never gave (the paper's comparison)."""
    stands: bool = True
    """Both are above `near` after Holm's correction over the signs, with validated intervals."""


# The differences that a verdict may claim.
CLAIMS = frozenset({"open", "choice", "gap"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for a verdict: one arm, in one language or overall, with one kind of options."""

    n: int
    base_open: float
    """Accuracy over the `n` items, like the next three."""
    arm_open: float
    base_choice: float
    arm_choice: float
    open_drop: Estimate | None
    """Normalized, like the next two; null if base is too near the floor."""
    choice_drop: Estimate | None
    gap: Estimate | None
    fates: FateCounts
    lost: Estimate | None
    """Share of the both-correct items lost in open that choice lost too; decides *loss*."""
    floor: float = QUARTER
    """What guessing scores in choice."""
    near: Mapping[str, Nearness] = field(default_factory=dict)
    """Signs that the answer is near, by name."""
    broken: Estimate | None = None
    """Share of the outputs that are sound in base and, in the arm, not a number, empty, degenerate or looping."""
    sound: int = 0
    """Outputs that are sound in base."""
    broken_seen: Estimate | None = None
    """The same share as `broken`, also where too few outputs are sound in base to judge by it."""
    identical: bool = False
    """Every recorded probability of the arm equals base's."""
    excluded: tuple[str, ...] = ()
    """Languages excluded from these figures because base is too weak there."""
    raw_gap: Estimate | None = None
    """The drop of open − that of choice, in raw points."""
    net: Estimate | None = None
    """Net dissociation."""
    stands: frozenset[str] = CLAIMS
    """Which of the drops and the gap differ from 0 after correction for several languages."""
    recognised: bool = True
    """Whether these options show recognition; otherwise demotion is not claimed."""


class Decision(NamedTuple):
    """An outcome and the reasons for it.

    open, choice: the states of the two drops. possible: what an inconclusive outcome may still turn out to be.
    near: the signs that show the answer near. items_needed: items at which the intervals would decide
    with 80 % power if the figures stayed the same; None if the outcome is decided or no number would decide it.
    alike: for a loss, both formats lost about the same share; otherwise most of what open lost is lost to both.
    """

    outcome: Outcome
    open: State
    choice: State
    possible: tuple[Outcome, ...] = ()
    near: tuple[str, ...] = ()
    items_needed: int | None = None
    alike: bool = False


def decide(evidence: Evidence, thresholds: Thresholds | None = None) -> Decision:
    """The outcome that the evidence supports."""
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
    """The state of a drop, by its interval; undecided without one. stands: whether it is significantly above 0."""
    if drop is None:
        return "undecided"
    if drop.high <= hold:
        return "holds"
    return "falls" if drop.low > 0 and stands else "undecided"


def lost_dominates(evidence: Evidence, thresholds: Thresholds) -> bool:
    """Whether most of what open lost is lost to choice too.

    With k options, a lost answer is still picked by guessing in one of k cases, so the observed share is (k − 1)/k of
    the true share, that is, 1 − the floor.
    """
    if evidence.lost is None:
        return False
    return evidence.lost.low / (1 - evidence.floor) > thresholds.lost


class _Gap(NamedTuple):
    """What the gap's interval shows: open lost the larger share, the smaller, or at most the margin more."""

    above: bool
    below: bool
    alike: bool

    @staticmethod
    def of(gap: Estimate, limits: Thresholds, *, stands: bool = True) -> _Gap:
        return _Gap(gap.low > 0 and stands, gap.high < 0 and stands, gap.high <= limits.same_gap)


def _by_states(opened: State, chosen: State, gap: _Gap, *, lost: bool) -> Outcome:
    """The outcome, by the table in the module docstring."""
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
    """What an inconclusive outcome may turn out to be: the outcomes of all true values inside the intervals."""
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
    # Intervals that contradict each other rule out everything; then all outcomes stay possible.
    return tuple(outcome for outcome in order if outcome in found) or order


def _items(evidence: Evidence, opened: State, chosen: State, limits: Thresholds) -> int | None:
    """Items that would decide everything that is undecided."""
    needs: list[int | None] = []
    for drop, state_of_drop in ((evidence.open_drop, opened), (evidence.choice_drop, chosen)):
        if state_of_drop == "undecided" and drop is not None:
            needs.append(_nearest(drop, low=0.0, high=limits.hold))
    if not needs and evidence.gap is not None:
        needs.append(_nearest(evidence.gap, low=0.0, high=limits.same_gap))
    known = [need for need in needs if need is not None]
    return max(known) if known and len(known) == len(needs) else None


def _nearest(estimate: Estimate, *, low: float, high: float) -> int | None:
    """Items until an interval is above `low` or below `high`, whichever needs fewer."""
    needs = []
    if estimate.value > low:
        needs.append(items_needed(estimate, low))
    if estimate.value < high:
        needs.append(items_needed(estimate, high))
    known = [need for need in needs if need is not None]
    return min(known) if known else None
