"""How many items a study needs: from a pilot, from assumptions, and that both are the same arithmetic."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from anomia.errors import StudyError
from anomia.measure.frame import POOLED
from anomia.measure.power import NeededItems, Transition, items_for_gap, read_transition
from anomia.plan.sample_size import PlanTarget, plan_from_assumptions, plan_from_pilot
from tests.measure.planted import Damage, study_records


def test_a_pilot_is_planned_from_its_own_figures() -> None:
    records = study_records({"a": Damage(open=0.3, choice=0.05)}, languages=("english", "thai"), items=100)
    plans = {plan.scope: plan for plan in plan_from_pilot(records)}
    assert list(plans) == ["english", "thai", POOLED]
    pooled = plans[POOLED]
    base, arm = (records.filter(pl.col("arm") == name) for name in ("base", "a"))
    assert pooled.open.base == pytest.approx(base["open_correct"].mean())
    assert pooled.open.arm == pytest.approx(arm["open_correct"].mean())
    both = (base["open_correct"] & base["choice_correct"]).to_numpy()
    assert pooled.both_correct == pytest.approx(both.mean())
    assert isinstance(pooled.for_gap, NeededItems)
    assert pooled.for_gap.items == items_for_gap(pooled.open, pooled.choice, floor=0.25).items
    assert pooled.pilot_items == 200


def test_shared_passages_cost_items() -> None:
    alone = study_records({"a": Damage(open=0.3)}, items=200)
    # Whole passages are lost or kept.
    lost = np.random.default_rng(0).random(40) < 0.3
    shared = alone.with_columns(
        passage_id=(pl.col("index") // 5).cast(pl.String), open_correct=pl.lit(True), choice_correct=pl.lit(True)
    ).with_columns(
        open_correct=pl.when(pl.col("arm") == "a").then(~pl.col("index").map_elements(lambda n: bool(lost[n // 5]), return_dtype=pl.Boolean)).otherwise(True)
    )  # fmt: skip
    apart = shared.with_columns(passage_id=pl.col("item_id"))
    needs = [next(p for p in plan_from_pilot(frame) if p.scope == POOLED).for_gap for frame in (apart, shared)]  # fmt: skip
    assert all(isinstance(need, NeededItems) for need in needs)
    assert 4 < needs[1].items / needs[0].items < 6  # type: ignore[union-attr,operator]


def test_a_language_that_is_too_weak_says_why() -> None:
    records = study_records({"a": Damage()}, items=40, choice_accuracy=0.1)
    plan = next(iter(plan_from_pilot(records)))
    assert isinstance(plan.for_gap, str)
    assert "above the floor" in plan.for_gap


def test_assumptions_without_fates_take_independence() -> None:
    plan = plan_from_assumptions(Transition(0.5, 0.4, 0.0), Transition(0.9, 0.9, 0.0))
    assert plan.both_correct == pytest.approx(0.45)
    assert plan.dissociation == pytest.approx(0.2)
    harder = plan_from_assumptions(
        Transition(0.5, 0.4, 0.0), Transition(0.9, 0.9, 0.0), target=PlanTarget(dissociation_against=0.15)
    )
    assert isinstance(plan.for_dissociation, NeededItems)
    assert isinstance(harder.for_dissociation, NeededItems)
    assert (harder.for_dissociation.items or 0) > 3 * (plan.for_dissociation.items or 0)


def test_a_rate_is_never_planned_for_fewer_items_than_are_reported() -> None:
    plan = plan_from_assumptions(Transition(0.9, 0.1, 0.0), Transition(0.9, 0.9, 0.0))
    assert isinstance(plan.for_dissociation, NeededItems)
    assert plan.for_dissociation.both_correct == 10


@pytest.mark.parametrize("text", ["0.4", "a,b", "0.4,1.2", "0.4,0.3,0.2"])
def test_accuracies_must_be_two_shares(text: str) -> None:
    with pytest.raises(StudyError):
        read_transition(text, 0.02, "--open")
