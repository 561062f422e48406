"""The number of items that a study needs, from the records of a pilot run or from assumed accuracies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from anomia.errors import StudyError
from anomia.measure.drops import QUARTER
from anomia.measure.fates import count_fates
from anomia.measure.frame import arms_of, both, known, pair, prepare, right, scopes
from anomia.measure.power import (
    POWER,
    NeededItems,
    Transition,
    check_share,
    items_for_dissociation,
    items_for_gap,
)
from anomia.measure.rates import Clusters, cluster, effective_items


class PlanTarget(NamedTuple):
    """The effects to detect and the power: a dissociation rate above one value, a gap that differs from another."""

    dissociation_against: float = 0.05
    gap_against: float = 0.0
    power: float = POWER


class ItemPlan(NamedTuple):
    """The items that one arm needs in one scope.

    open, choice: assumed or observed accuracies. both_correct: share of items that base answers correctly in both
    formats. dissociation: the share of those that the arm recognizes but no longer says; None if unknown.
    for_dissociation, for_gap: items needed, or the reason why a figure can't be planned for. pilot_items: items that
    the accuracies are based on; None if they are assumed.
    """

    arm: str
    scope: str
    open: Transition
    choice: Transition
    both_correct: float
    dissociation: float | None
    for_dissociation: NeededItems | str
    for_gap: NeededItems | str
    pilot_items: int | None = None


def plan_from_pilot(records: pl.DataFrame, target: PlanTarget | None = None) -> Iterator[ItemPlan]:
    """The items needed if the accuracies observed in a pilot are the true ones, per arm, by language and over all.

    Shared passages cause a design effect, which is estimated from the pilot.
    """
    wanted = target or PlanTarget()
    check_share(power=wanted.power, dissociation_against=wanted.dissociation_against)
    records = prepare(records)
    for arm in arms_of(records):
        part = known(pair(records, arm), both("open_correct", "choice_correct"))
        columns = [right(part, column) for column in both("open_correct", "choice_correct")]
        passages = part["passage"].to_numpy()
        for scope, mask in scopes(part):
            base_open, arm_open, base_choice, arm_choice = (column[mask] for column in columns)
            counts = count_fates(base_open, base_choice, arm_open, arm_choice)
            excess = (base_open * 1.0 - arm_open) - (base_choice * 1.0 - arm_choice)
            groups = cluster(passages[mask], int(mask.sum()))
            yield _plan(
                arm,
                scope,
                _transition(base_open, arm_open),
                _transition(base_choice, arm_choice),
                both_correct=counts.both_correct / int(mask.sum()),
                rate=counts.dissociation,
                target=wanted,
                floor=float(part["choice_floor"].to_numpy()[mask].mean()),
                open_floor=float(part["open_floor"].to_numpy()[mask].mean()),
                design_effect=_design_effect(excess, groups),
                pilot_items=int(mask.sum()),
            )


def plan_from_assumptions(
    open_: Transition,
    choice: Transition,
    *,
    both_correct: float | None = None,
    dissociation: float | None = None,
    target: PlanTarget | None = None,
) -> ItemPlan:
    """The items needed under assumed accuracies.

    both_correct, dissociation: if not given, open and choice answers are taken as independent of each other.
    """
    if both_correct is None:
        both_correct = open_.base * choice.base
    if dissociation is None and open_.base > 0 and choice.base > 0:
        unsaid = (open_.base - open_.arm + open_.gained) / open_.base
        dissociation = unsaid * (choice.arm - choice.gained) / choice.base
    return _plan(
        "assumed",
        "assumed",
        open_,
        choice,
        both_correct=both_correct,
        rate=dissociation,
        target=target or PlanTarget(),
    )


def _plan(
    arm: str,
    scope: str,
    open_: Transition,
    choice: Transition,
    *,
    both_correct: float,
    rate: float | None,
    target: PlanTarget,
    floor: float = QUARTER,
    open_floor: float = 0.0,
    design_effect: float = 1.0,
    pilot_items: int | None = None,
) -> ItemPlan:
    def dissociation() -> NeededItems:
        return items_for_dissociation(
            rate or 0.0,
            both_correct,
            against=target.dissociation_against,
            power=target.power,
            design_effect=design_effect,
        )

    def gap() -> NeededItems:
        return items_for_gap(
            open_,
            choice,
            floor=floor,
            open_floor=open_floor,
            against=target.gap_against,
            power=target.power,
            design_effect=design_effect,
        )

    return ItemPlan(
        arm,
        scope,
        open_,
        choice,
        both_correct,
        rate,
        _or_why(dissociation) if pilot_items is not None else dissociation(),
        _or_why(gap) if pilot_items is not None else gap(),
        pilot_items,
    )


def _or_why(need: Callable[[], NeededItems]) -> NeededItems | str:
    """The items needed, or the reason why they can't be planned (a language may be too weak in the pilot)."""
    try:
        return need()
    except StudyError as error:
        return str(error)


def _transition(base: np.ndarray, arm: np.ndarray) -> Transition:
    return Transition(float(base.mean()), float(arm.mean()), float((arm & ~base).mean()))


def _design_effect(values: np.ndarray, groups: Clusters) -> float:
    return len(values) / effective_items(values, groups) if groups.count > 1 else 1.0
