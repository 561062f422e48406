"""Figures of long answers, against sums by hand over planted ones."""

from __future__ import annotations

import math

import polars as pl
import pytest

from anomia.measure import measures
from anomia.measure.diagnosis import diagnose
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.judge import judge
from anomia.measure.long_answers import long_words, safe_tokens
from anomia.measure.paired import paired_difference
from anomia.measure.rates import rate
from tests.measure.long_records import with_long_answers
from tests.measure.planted import Damage, study_records

ARM = "wanda:0.5"


@pytest.fixture(scope="module")
def diagnosis():
    records = study_records({ARM: Damage(open=0.4, choice=0.1)}, languages=("english",), items=80)
    return diagnose(with_long_answers(records, ARM))


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (measures.long("unended"), 2 / 4),
        (measures.long("unended_more"), 2 / 4),
        (measures.long("looped"), 1 / 4),
        (measures.long("looped_more"), 1 / 4),
        (measures.long("equal"), 1 / 4),
        (measures.along("top"), (1 + 10 / 40 + 10 / 20 + 1) / 4),
        (measures.along("demoted"), (10 / 40 + 10 / 20) / 4),
        (measures.along("lost"), (20 / 40) / 4),
        (measures.along("top1_agreement"), (1 + 11 / 41 + 11 / 21 + 1) / 4),
        (measures.along("kl"), (30 / 41 + 10 / 21) / 4),
        (measures.along("end"), 0.25),
    ],
)
def test_each_item_counts_once(diagnosis, measure, value):
    assert lookup(diagnosis.figures)[ARM, measure, POOLED].value == pytest.approx(value)


def test_damage_by_position(diagnosis):
    rows = {(row.first, row.last): row for row in diagnosis.damage if row.scope == POOLED}
    assert list(rows) == [(0, 32), (32, 64), (64, 128)]
    # In the first 32 tokens: items 1 (32 of rank 1), 2 (10, 10, 12), 3 (10, 10), 4 (32).
    assert rows[0, 32].top.value == pytest.approx((1 + 10 / 32 + 10 / 20 + 1) / 4)
    assert rows[0, 32].demoted.value == pytest.approx((10 / 32 + 10 / 20) / 4)
    assert rows[0, 32].lost.value == pytest.approx((12 / 32) / 4)
    assert rows[0, 32].top.n == 80
    # Base's third answer is too short for the second stretch, and only the fourth reaches the last one.
    assert rows[32, 64].top.n == 60
    assert rows[32, 64].lost.value == pytest.approx(1 / 3)
    assert rows[64, 128].top.n == 20
    # The second item loops from 20 on; the third passes base's end at 20 and never ends.
    assert rows[0, 32].derailed.value == rows[64, 128].derailed.value == pytest.approx(2 / 4)
    assert rows[0, 32].derailed_more.value == pytest.approx(2 / 4)
    assert rows[0, 32].followed.value == pytest.approx(1 / 4)
    assert safe_tokens([row for row in diagnosis.damage if row.arm == ARM]) is None


def test_where_base_copies_itself_nothing_is_compared():
    """Of 100 tokens in base, the 31st to the 40th are repeated to the end; the arm fails before, and copies along."""
    records = study_records({ARM: Damage(open=0.4, choice=0.1)}, languages=("english",), items=60)
    records = with_long_answers(records, ARM).with_columns(
        continuation_ids=pl.lit(list(range(100)), dtype=pl.List(pl.Int32)),
        continuation_ended=pl.lit(False),
        continuation_loop_start=pl.lit(30, dtype=pl.Int32),
        continuation_loop_period=pl.lit(10, dtype=pl.Int32),
        continuation_ranks=pl.lit([2] * 20 + [1] * 80, dtype=pl.List(pl.Int32)),
        continuation_kl=pl.lit([1.0] * 20 + [0.0] * 81, dtype=pl.List(pl.Float32)),
        continuation_top1=pl.lit([False] * 20 + [True] * 81, dtype=pl.List(pl.Boolean)),
    )
    found = diagnose(records)
    figures = lookup(found.figures)
    for measure in ("top", "top1_agreement", "demoted", "kl"):
        assert figures[ARM, measures.along(measure), POOLED].value == pytest.approx(20 / 40)
    rows = {(row.first, row.last): row for row in found.damage if row.scope == POOLED}
    assert rows[32, 64].top.value == 1
    assert rows[64, 128].top is rows[64, 128].kl is None


def test_where_an_answer_was_stopped_intervals_hold_for_either_ending(diagnosis):
    """The arm's second answer of four loops from token 20 on, and is stopped at 70 of 100."""
    records = study_records({ARM: Damage(open=0.4, choice=0.1)}, languages=("english",), items=80)
    records = with_long_answers(records, ARM)
    looping = (pl.col("arm") == ARM) & pl.col("continuation_loop_start").is_not_null()
    records = records.with_columns(
        continuation_ended=pl.when(~looping).then("continuation_ended"),
        continuation_stopped=pl.when(looping).then(pl.lit(70, dtype=pl.Int32)),
        continuation_ids=pl.when(looping)
        .then(pl.col("continuation_ids").list.head(70))
        .otherwise("continuation_ids"),
    )
    found = diagnose(records)
    assert found.damage == diagnosis.damage
    before, after = (lookup(each.figures) for each in (diagnosis, found))
    for measure in (measures.long("looped"), measures.long("looped_more"), *measures.along):
        for scope in (POOLED, "english"):
            assert after[ARM, measure, scope] == before[ARM, measure, scope]
    # Of the two in four that don't end, one may have ended later; its text may have become right or like base's.
    for name, fewest, most in (
        ("unended", 1 / 4, 2 / 4),
        ("correct", 2 / 4, 3 / 4),
        ("same_final", 1 / 4, 2 / 4),
        ("same_script", 3 / 4, 4 / 4),
    ):
        whole, cut = (figures[ARM, measures.long(name), POOLED] for figures in (before, after))
        ids = range(80)
        assert cut.value == whole.value
        assert cut.low == pytest.approx(rate([n % 4 < 4 * fewest for n in ids]).low)
        assert cut.high == pytest.approx(rate([n % 4 < 4 * most for n in ids]).high)
    whole, cut = (figures[ARM, measures.long("unended_more"), POOLED] for figures in (before, after))
    assert cut.value == whole.value
    assert cut.high == whole.high
    assert cut.low == pytest.approx(paired_difference([n % 4 == 0 for n in range(80)], [0] * 80).low)
    # Base's endings: nothing is known of an answer that was stopped.
    assert {row.first for row in found.damage} == {0, 32, 64}


def test_two_answers_that_were_stopped_alike_may_still_differ():
    records = study_records({ARM: Damage(open=0.4, choice=0.1)}, languages=("english",), items=60)
    records = with_long_answers(records, ARM)
    armed = pl.col("arm") == ARM
    records = records.with_columns(
        continuation_ids=pl.lit(list(range(60)), dtype=pl.List(pl.Int32)),
        continuation_ended=pl.lit(None, dtype=pl.Boolean),
        continuation_stopped=pl.lit(60, dtype=pl.Int32),
        continuation_loop_start=pl.lit(10, dtype=pl.Int32),
        continuation_loop_period=pl.lit(2, dtype=pl.Int32),
        continuation_equal=pl.lit(None, dtype=pl.Boolean),
        continuation_divergence=pl.lit(None, dtype=pl.Int32),
        continuation_same_final=pl.when(armed).then(True),
    )
    found = diagnose(records)
    figures = lookup(found.figures)
    for name in ("unended", "equal", "same_final"):
        estimate = figures[ARM, measures.long(name), POOLED]
        assert (estimate.value, estimate.low, estimate.high, estimate.n) == (1, 0, 1, 60)
    more = figures[ARM, measures.long("unended_more"), POOLED]
    assert (more.value, more.low, more.high) == (0, -1, 1)
    assert figures[ARM, measures.long("looped"), POOLED].low > 0.9
    rows = [row for row in found.damage if row.scope == POOLED]
    assert [(row.first, row.last) for row in rows] == [(0, 32), (32, 64), (64, 128)]
    assert rows[0].followed.low > 0.9
    assert (rows[1].followed.low, rows[1].followed.high) == (0, 1)
    assert {(row.derailed.value, row.derailed_more.value) for row in rows} == {(1, 0)}
    # The arm adds nothing, but there is nothing left to add to.
    assert safe_tokens(rows) is None
    assert "because most of base's own answers loop" in long_words(ARM, figures, found.damage)[1]


def test_words_name_what_was_seen(diagnosis):
    finding, told = long_words(ARM, lookup(diagnosis.figures), diagnosis.damage)
    assert finding.startswith("Of its long answers 50 % (39 % to 61 %) never end, 50 points (")
    assert finding.endswith("; 25 % (17 % to 35 %) loop.")
    assert "ranks 69 % of the tokens first, 19 % second to tenth, and 12 % lower" in told
    assert "No length is shown to be safe" in told


def test_a_run_without_long_answers_says_nothing_of_them():
    records = study_records({ARM: Damage(open=0.4, choice=0.1)}, languages=("english",), items=40)
    found = diagnose(records)
    assert not found.damage
    assert not [figure for figure in found.figures if figure.measure.family in ("long", "along")]
    assert long_words(ARM, lookup(found.figures), found.damage) == ("", "")


@pytest.mark.parametrize("items", [2, 3, 9])
def test_no_interval_leaves_the_range_of_its_measure(items):
    """Few items make wide intervals; normalized drops have no fixed range, and differences of drops go from −2 to 2."""
    records = study_records({ARM: Damage(open=0.5, choice=0.2)}, languages=("english", "thai"), items=items)
    found = diagnose(with_long_answers(records, ARM))
    ranges = {"share": (0.0, 1.0), "points": (-2.0, 2.0), "nats": (0.0, math.inf)}
    seen = set()
    for figure in found.figures:
        measure, estimate = figure.measure, figure.estimate
        if estimate is None or measure.family in ("normalized_drop", "gap", "gap_strict"):
            continue
        least, most = ranges[measure.unit]
        if measure.unit == "share" and measure.against_base:
            least = -1.0
        assert least <= estimate.low <= estimate.value <= estimate.high <= most, (measure, estimate)
        seen.add(measure.unit)
    assert seen == {"share", "points", "nats"}
    for row in found.damage:
        for name in ("top", "demoted", "lost", "followed", "derailed", "kl"):
            estimate = getattr(row, name)
            if estimate is not None:
                assert 0 <= estimate.low <= estimate.value <= estimate.high
                assert name == "kl" or estimate.high <= 1


@pytest.mark.parametrize(("items", "outcome"), [(8, "unjudged"), (10, "broken")])
def test_a_model_that_always_loops_is_broken_or_says_what_is_missing(items, outcome):
    """Base's answers are sound, and every answer of the arm loops."""
    prompts = study_records({ARM: Damage(open=0.0, choice=0.0)}, languages=("english",), items=items)
    asked = with_long_answers(prompts, ARM).with_columns(
        continuation_loop_start=pl.when(pl.col("arm") == ARM).then(pl.lit(7, pl.Int32)),
        open_text=pl.lit(None, pl.String),
        open_correct=pl.lit(None, pl.Boolean),
        choice_correct=pl.lit(None, pl.Boolean),
    )
    overall = judge(asked)[-1]
    assert overall.outcome == outcome
    missing = (
        "Whether the arm is broken is not judged: 8 outputs are sound in base, and at least 10 are needed, so ask more "
        "prompts. Of these, 100 % (68 % to 100 %) are empty, loop, or have logits that are NaN or infinite in the arm."
    )
    assert (missing in overall.text) == (outcome == "unjudged")
