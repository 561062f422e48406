"""Figures of long answers, against sums by hand over planted ones."""

from __future__ import annotations

import polars as pl
import pytest

from anomia.measure import measures
from anomia.measure.diagnosis import diagnose
from anomia.measure.figures import lookup
from anomia.measure.frame import POOLED
from anomia.measure.long_answers import long_words, safe_tokens
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
