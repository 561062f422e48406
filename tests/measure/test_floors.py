"""What guessing gets follows from how many options each item offers."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from anomia.measure import measures
from anomia.measure.bootstrap import resample
from anomia.measure.comparisons import against_base
from anomia.measure.everywhere import everywhere
from anomia.measure.frame import POOLED, pair, prepare
from anomia.measure.judge import judge
from anomia.measure.quantities import normalized
from anomia.measure.scope import _is_strong, scope_of
from anomia.records import SCHEMA


def records(options: list[int], right: dict[str, list[bool]]) -> pl.DataFrame:
    """Base and an arm that answer items with so many options each."""
    rows = [
        dict.fromkeys(SCHEMA)
        | {
            "arm": arm,
            "dataset": "d",
            "language": "english",
            "item_id": f"q{n}",
            "passage_id": f"p{n}",
            "index": n,
            "finite": True,
            "open_correct": hit,
            "choice_correct": hit,
            "choice_scores": [0.0] * options[n],
        }
        for arm, hits in right.items()
        for n, hit in enumerate(hits)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def test_each_item_has_its_own_chance() -> None:
    frame = prepare(records([2, 4, 5], {"base": [True] * 3}))
    assert frame["choice_floor"].to_list() == [0.5, 0.25, 0.2]
    # Where options were not scored nothing says how many there were.
    assert frame["choice_hard_floor"].to_list() == [0.25] * 3


def test_one_floor_for_all_is_the_mean_of_equal_ones() -> None:
    generator = np.random.default_rng(0)
    base, arm = generator.random(200) < 0.8, generator.random(200) < 0.6
    draws = resample(["x"] * 200, np.arange(200))
    one = everywhere(normalized(base, arm, floor=0.25), draws)
    each = everywhere(normalized(base, arm, floor=np.full(200, 0.25)), draws)
    assert one == each
    assert one.pooled is not None
    assert one.pooled.value == pytest.approx((base.mean() - arm.mean()) / (base.mean() - 0.25))


def test_two_options_and_ten_are_measured_above_their_own_chance() -> None:
    """An arm that guesses has lost all that base had above guessing, whatever the number of options."""
    generator = np.random.default_rng(1)
    options = generator.choice([2, 3, 10], 6000)
    floors = 1.0 / options
    guessed = generator.random(6000) < floors
    draws = resample(["x"] * 6000, np.arange(6000))
    found = everywhere(normalized(np.ones(6000), guessed, floor=floors), draws).pooled
    assert found is not None
    assert found.value == pytest.approx(1.0, abs=0.03)
    assert found.low < 1.0 < found.high
    wrong = everywhere(normalized(np.ones(6000), guessed, floor=0.25), draws).pooled
    assert wrong is not None
    assert not wrong.low < 1.0 < wrong.high


def test_base_at_the_chance_of_two_options_can_not_be_compared() -> None:
    hits = [True, False] * 40
    (verdict,) = [v for v in judge(records([2] * 80, {"base": hits, "arm": hits})) if v.scope == "overall"]
    assert verdict.evidence.floor == 0.5
    assert verdict.evidence.choice_drop is None
    (four,) = [v for v in judge(records([4] * 80, {"base": hits, "arm": hits})) if v.scope == "overall"]
    assert four.evidence.choice_drop is not None
    assert pair(prepare(records([2] * 80, {"base": hits, "arm": hits})), "arm")["choice_floor"][0] == 0.5


def test_an_answer_with_its_options_listed_is_measured_above_guessing_too() -> None:
    """An arm that guesses has lost everything in both formats, so there is no gap."""
    generator = np.random.default_rng(2)
    options = generator.choice([2, 4], 4000)
    base = generator.random(4000) < 0.9
    guesses = {name: generator.random(4000) < 1 / options for name in ("open", "choice")}
    frame = records(options.tolist(), {"base": base.tolist(), "arm": guesses["choice"].tolist()})
    frame = frame.with_columns(
        open_options=pl.Series([*options, *options], dtype=pl.Int32),
        open_correct=pl.Series([*base, *guesses["open"]]),
    )
    raw = {"shown": frame, "alone": frame.with_columns(open_options=pl.lit(None, pl.Int32))}
    shown, alone = (prepare(each) for each in raw.values())
    assert shown["open_floor"].to_list()[:4000] == (1 / options).tolist()
    assert set(alone["open_floor"]) == {0.0}
    by_hand = (base.mean() - guesses["open"].mean()) / (base.mean() - (1 / options).mean())
    for measured, drop in ((shown, by_hand), (alone, 1 - guesses["open"].mean() / base.mean())):
        found = {
            each.measure: each for each in against_base("arm", pair(measured, "arm")) if each.scope == POOLED
        }
        estimate = found[measures.normalized_drop("open")].estimate
        assert estimate is not None
        assert estimate.value == pytest.approx(drop)
    evidence = {name: judge(each)[0].evidence for name, each in raw.items()}
    assert evidence["shown"].gap is not None
    assert evidence["alone"].gap is not None
    assert abs(evidence["shown"].gap.value) < 0.05
    assert evidence["alone"].gap.value < -0.3


def test_a_base_that_only_guesses_among_listed_options_is_excluded() -> None:
    hits = [True, False] * 100
    frame = records([2] * 200, {"base": hits, "arm": hits}).with_columns(choice_correct=pl.lit(True))
    assert scope_of(prepare(frame)).excluded == ()
    listed = prepare(frame.with_columns(open_options=pl.lit(2, pl.Int32)))
    assert scope_of(listed).decided_by == "choice"
    assert not _is_strong(listed.filter(pl.col("arm") == "base"), "choice")
