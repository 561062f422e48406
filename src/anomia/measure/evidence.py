"""The evidence for a verdict, for each language and overall."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.bootstrap import DRAWS, resample
from anomia.measure.dissociation import Answers, net_dissociation
from anomia.measure.drops import QUARTER
from anomia.measure.everywhere import Everywhere, everywhere_levels
from anomia.measure.fates import counts_of, fates, met
from anomia.measure.intervals import JOINED
from anomia.measure.quantities import Mask, Quantity, drop, minus, normalized
from anomia.measure.rates import CHECKED_ITEMS, Estimate, cluster, rate, right_or_wrong
from anomia.measure.verdict import CLAIMS, FEWEST_SOUND, Evidence, Nearness

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign of nearness as quantities over the items of a case; see `verdict.Nearness`."""

    over_control: Quantity
    over_failures: Quantity | None = None


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The answers of base and one arm to the same items, with their attributes; arrays and sequences are [items].

    languages, passages: of each item. floor, open_floor: what guessing scores in choice and in open, one number or one
    per item.
    near: signs that an answer is near, by name.
    base_broken, arm_broken: outputs that are not a number, empty, degenerate or looping.
    identical: every recorded probability of the arm equals base's.
    pooled: the languages that `OVERALL` covers; None for those in which base is strong enough for both drops.
    recognised: whether the options show recognition.
    """

    answers: Answers
    languages: Sequence[str]
    passages: ArrayLike | None = None
    floor: ArrayLike = QUARTER
    open_floor: ArrayLike = 0.0
    near: Mapping[str, Sign] = field(default_factory=dict)
    base_broken: ArrayLike | None = None
    arm_broken: ArrayLike | None = None
    identical: bool = False
    pooled: Collection[str] | None = None
    recognised: bool = True


# The allowed probability of a false claim. Where both formats lost the same share, the gap alone decides the direction
# of the verdict, and its intervals cover up to a point less than nominal: at 3 %, the total error stays below 5 %.
ALPHA = 0.05
GAP_ALPHA = 0.03


class _Claim(NamedTuple):
    """A difference that may be claimed: its estimates at 95 % and at the levels that Holm's method needs."""

    estimates: Mapping[float, Estimate | None]
    alpha: float = ALPHA

    @property
    def estimate(self) -> Estimate | None:
        return self.estimates[0.95]

    def rank(self, family: int, against: Callable[[Estimate], bool]) -> int:
        """The largest family size, up to `family`, at whose level the claim still holds; 0 if it doesn't hold alone."""
        held = 0
        for size in range(1, family + 1):
            estimate = self.estimates[level(size, self.alpha)]
            if estimate is None or not against(estimate):
                break
            held = size
        return held


def gather(case: AnswerSet, *, draws: int = DRAWS, seed: int = 0, near: float = 0.0) -> dict[str, Evidence]:
    """Evidence by language, in alphabetical order, and last under `OVERALL`.

    Overall covers the items of the languages in `case.pooled`; its `excluded` names the others. Claims about several
    languages, or by several signs of nearness, are corrected by Holm's method: a claim must hold at the level
    1 − α / k, with k falling from the size of the family; α is 0.03 for the gap and 0.05 for the others.
    near: the threshold that signs must exceed.
    """
    labels = np.asarray(case.languages, dtype=np.str_)
    if len({column.shape for column in map(np.asarray, case.answers)} | {labels.shape}) != 1:
        raise DataError("a verdict needs the same items in base and arm: join the records by item")
    names = [str(name) for name in np.unique(labels)]
    family = max(len(names), len(case.near), 1)
    pooled = names if case.pooled is None else [name for name in names if name in case.pooled] or names
    measured = _measure(case, labels, pooled, family, draws, seed)
    strong = [name for name in names if measured["gap"].at(name).estimate is not None]
    if case.pooled is None and strong and len(strong) < len(names):
        pooled = strong
        measured = _measure(case, labels, pooled, family, draws, seed)
    stands = {
        claim: holm_stands(
            {name: measured[claim].at(name).rank(len(names), apart) for name in names}, len(names)
        )
        for claim in CLAIMS
    }
    found = {}
    for name in names:
        kept = frozenset(claim for claim in CLAIMS if name in stands[claim])
        found[name] = _evidence(case, labels == name, measured, name, kept, near)
    excluded = tuple(name for name in names if name not in pooled)
    kept = frozenset(claim for claim in CLAIMS if measured[claim].at(None).rank(1, apart))
    found[OVERALL] = _evidence(case, np.isin(labels, pooled), measured, None, kept, near, excluded)
    return found


def holm_stands(ranks: Mapping[str, int], family: int) -> frozenset[str]:
    """The names in a family that survive Holm's step-down method.

    ranks: for each name, the largest k whose interval at level 1 − α / k excludes the hypothesis; 0 if none does.

    >>> sorted(holm_stands({"a": 3, "b": 2, "c": 0}, 3))
    ['a', 'b']
    """
    standing: set[str] = set()
    for step, name in enumerate(sorted(ranks, key=lambda name: -ranks[name])):
        if ranks[name] < family - step:
            break
        standing.add(name)
    return frozenset(standing)


def apart(estimate: Estimate) -> bool:
    """Whether an interval excludes 0."""
    return estimate.low > 0 or estimate.high < 0


def level(family: int, alpha: float = ALPHA) -> float:
    """The confidence level at which one of a family of claims is tested.

    >>> level(1), level(5), level(1, 0.03)
    (0.95, 0.99, 0.97)
    """
    return round(1 - alpha / family, 10)


def levels_of(family: int) -> list[float]:
    """All confidence levels that a verdict uses."""
    return sorted({level(size, alpha) for size in range(1, family + 1) for alpha in (ALPHA, GAP_ALPHA)})


class _Measured(NamedTuple):
    """One quantity in every language and pooled (None), at every level."""

    everywhere: Mapping[float, Everywhere]
    alpha: float = ALPHA

    def at(self, language: str | None) -> _Claim:
        return _Claim(
            {
                level: where.pooled if language is None else where.by_language[language]
                for level, where in self.everywhere.items()
            },
            self.alpha,
        )


def _measure(
    case: AnswerSet,
    labels: NDArray[np.str_],
    pooled: Collection[str] | None,
    family: int,
    draws: int,
    seed: int,
) -> dict[str, _Measured]:
    """Every quantity of a case in every language and pooled, by name. labels: the language of each item: [items]."""
    columns = Answers(*(right_or_wrong(column) for column in case.answers))
    passages = cluster(case.passages, len(labels)).index
    floor = np.broadcast_to(np.asarray(case.floor, dtype=np.float64), labels.shape)
    opened = normalized(
        columns.base_open,
        columns.arm_open,
        passages,
        floor=np.broadcast_to(np.asarray(case.open_floor, dtype=np.float64), labels.shape),
    )
    chosen = normalized(columns.base_choice, columns.arm_choice, passages, floor=floor)
    raw_open, raw_choice = (drop(*sides, passages) for sides in (columns[:2], columns[2:]))
    quantities = {
        "open": opened,
        "choice": chosen,
        "gap": minus(opened, chosen),
        "raw_gap": minus(raw_open, raw_choice),
        "net": net_dissociation(columns, passages),
    }
    for name, sign in case.near.items():
        quantities[f"near {name}"] = sign.over_control
        if sign.over_failures is not None:
            quantities[f"far {name}"] = sign.over_failures
    found = everywhere_levels(
        quantities, resample(labels, passages, draws=draws, seed=seed), levels_of(family), pooled=pooled
    )
    return {
        name: _Measured(
            {level: where[name] for level, where in found.items()}, GAP_ALPHA if name == "gap" else ALPHA
        )
        for name in quantities
    }


def _nearness(
    case: AnswerSet, measured: Mapping[str, _Measured], scope: str | None, near: float
) -> dict[str, Nearness]:
    """The signs of one scope, and whether each survives Holm's correction over them."""

    def exceeds(estimate: Estimate) -> bool:
        # If shares are 0 or 1, few items differ; the joined score intervals are wide enough for such cases.
        validated = estimate.checked or (estimate.n >= CHECKED_ITEMS and estimate.method == JOINED)
        return estimate.low > near and validated

    signs: dict[str, tuple[Estimate, Estimate | None]] = {}
    ranks: dict[str, int] = {}
    for name, sign in case.near.items():
        control = measured[f"near {name}"].at(scope)
        failures = None if sign.over_failures is None else measured[f"far {name}"].at(scope)
        if control.estimate is None:
            continue
        signs[name] = control.estimate, None if failures is None else failures.estimate
        ranks[name] = min(
            claim.rank(len(case.near), exceeds) for claim in (control, failures) if claim is not None
        )
    stands = holm_stands(ranks, len(ranks))
    return {name: Nearness(*estimates, stands=name in stands) for name, estimates in signs.items()}


def _evidence(
    case: AnswerSet,
    mask: Mask,
    measured: Mapping[str, _Measured],
    scope: str | None,
    stands: frozenset[str],
    near: float,
    excluded: tuple[str, ...] = (),
) -> Evidence:
    """The evidence in one scope. mask: its items: [items]. stands: the claims that survive Holm's correction."""
    base_open, arm_open, base_choice, arm_choice = (right_or_wrong(c)[mask] for c in case.answers)
    passages = cluster(case.passages, len(mask)).index[mask]
    index = fates(base_open, base_choice, arm_open, arm_choice)
    unsaid = met(index, "choice_only", "lost")
    sound, seen = 0, None
    if case.base_broken is not None and case.arm_broken is not None:
        before, after = (right_or_wrong(c)[mask] for c in (case.base_broken, case.arm_broken))
        # Small models loop after many of their answers; an output that is already broken in base can't break again.
        sound, seen = int((~before).sum()), rate(after[~before], passages[~before])
    estimates = {
        name: measured[name].at(scope).estimate for name in ("open", "choice", "gap", "raw_gap", "net")
    }
    return Evidence(
        n=int(mask.sum()),
        base_open=float(base_open.mean()),
        arm_open=float(arm_open.mean()),
        base_choice=float(base_choice.mean()),
        arm_choice=float(arm_choice.mean()),
        open_drop=estimates["open"],
        choice_drop=estimates["choice"],
        gap=estimates["gap"],
        fates=counts_of(index),
        lost=rate(met(index[unsaid], "lost"), passages[unsaid]),
        floor=float(np.broadcast_to(np.asarray(case.floor, dtype=np.float64), mask.shape)[mask].mean()),
        near=_nearness(case, measured, scope, near),
        broken=seen if sound >= FEWEST_SOUND else None,
        sound=sound,
        broken_seen=seen,
        identical=case.identical,
        excluded=excluded,
        raw_gap=estimates["raw_gap"],
        net=estimates["net"],
        stands=stands,
        recognised=case.recognised,
    )
