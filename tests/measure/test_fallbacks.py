"""What decoding otherwise gives back: by hand on a few items, and what must not be counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from anomia.measure.fallbacks import VOTES, WAYS, FallbackRow, fallbacks
from anomia.measure.frame import POOLED
from anomia.records import SCHEMA

# Wrong texts, and a right one.
NO, MAYBE, YES = " Rome.\n\nMore", " Bergen", " Oslo."


def row(arm: str, index: int, **values: Any) -> dict[str, Any]:
    """The record of one item, each with its own passage; greedy answers are wrong and take 10 tokens."""
    return {
        "arm": arm, "dataset": "demo", "language": "english", "item_id": f"i{index}", "index": index,
        "passage_id": f"p{index}", "question": "?", "gold": "Oslo", "finite": True, "prompt_tokens": 50,
        "open_text": "1234567890" * 2, "open_tokens": 10, "open_correct": False, **values,
    }  # fmt: skip


def beams(texts: list[str], masses: list[float], **values: Any) -> dict[str, Any]:
    """Columns of beams of three tokens and an end token, with these probabilities."""
    return {
        "beam_texts": texts,
        "beam_scores": [math.log(mass) / 4 for mass in masses],
        "beam_tokens": [3] * len(texts),
        "beams_correct": [text == YES for text in texts],
        **values,
    }


def samples(texts: list[str], seeds: list[int], **values: Any) -> dict[str, Any]:
    return {
        "sample_texts": texts,
        "sample_seeds": seeds,
        "sample_tokens": [2] * len(texts),
        "samples_correct": [text == YES for text in texts],
        **values,
    }


def measured(rows: list[Mapping[str, Any]]) -> dict[tuple[str, str], FallbackRow]:
    frame = pl.DataFrame([{**dict.fromkeys(SCHEMA), **each} for each in rows], schema=SCHEMA)
    return {(found.way, found.scope): found for found in fallbacks(frame)}


def test_four_items_by_hand():
    right = {"open_correct": True}
    rows = [
        # Base answers all greedily; its beams lose one of them.
        *(row("base", n, **right, **beams([YES, NO], [0.6, 0.4])) for n in range(3)),
        row("base", 3, **right, **beams([YES, NO], [0.4, 0.6])),
        # The arm answers one, and its beams two more: in the second, less likely texts agree.
        row("wanda:0.5", 0, **right, **beams([YES, NO], [0.6, 0.4])),
        row("wanda:0.5", 1, **beams([NO, YES, YES], [0.4, 0.35, 0.25])),
        row("wanda:0.5", 2, **beams([YES, NO, MAYBE], [0.5, 0.3, 0.2])),
        row("wanda:0.5", 3, **beams([NO, YES], [0.7, 0.3])),
    ]
    found = measured(rows)["beams", POOLED]
    assert (found.base, found.base_fallback, found.open, found.fallback) == (1.0, 0.75, 0.25, 0.75)
    assert found.base_change is not None
    assert found.change is not None
    assert (found.base_change.value, found.change.value) == (-0.25, 0.5)
    assert (found.n, found.change.clusters, found.agreed) == (4, 4, 0.25)
    assert found.estimate is None  # four items show no loss for certain
    # 2 beams of 3 tokens, or 3 of 3, against 10 of each greedy answer.
    assert found.written == pytest.approx((6 + 9 + 9 + 6) / 40)
    assert (found.read, found.estimated) == (1.0, False)


def test_the_share_given_back_is_of_the_loss_in_greedy_answers():
    told = beams([YES], [0.5])
    silent = beams([NO], [0.5])
    rows = [row("base", n, open_correct=n < 40, **told) for n in range(60)]
    rows += [row("wanda:0.5", n, open_correct=n < 20, **(told if n < 30 else silent)) for n in range(60)]
    found = measured(rows)["beams", POOLED]
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx((30 - 20) / (40 - 20))
    assert found.estimate.low < 0.5 < found.estimate.high


def test_an_oracle_is_not_an_accuracy():
    """A right text among several never helps by being right."""
    rows = [row(arm, n, **beams([NO, YES, MAYBE], [0.5, 0.3, 0.2]), **samples([NO, NO, YES], [1] * 3)) for arm in ("base", "a") for n in range(6)]  # fmt: skip
    found = measured(rows)
    assert all(found[way, POOLED].fallback == 0 for way in VOTES)
    # The vote is the same whatever the texts' grades are: only the accuracy follows them.
    graded = [{**each, "beams_correct": [True, False, False]} for each in rows]
    assert measured(graded)["beams", POOLED].fallback == 1


def test_items_that_were_not_asked_do_not_count_as_wrong():
    asked = {**beams([YES], [0.5]), **samples([YES], [1]), "one_shot_correct": True}
    rows = [row(arm, n, **(asked if n < 2 else {})) for arm in ("base", "a") for n in range(10)]
    found = measured(rows)
    assert {found[way, POOLED].n for way in WAYS} == {2}
    assert {found[way, POOLED].fallback for way in WAYS} == {1.0}


def test_only_items_that_both_answered_both_ways_count():
    asked = beams([YES], [0.5])
    rows = [row("base", n, **(asked if n != 1 else {})) for n in range(4)]
    rows += [row("a", n, **asked, **({"open_correct": None} if n == 2 else {})) for n in range(3)]
    rows.append(row("a", 3, finite=False, open_correct=None))
    assert measured(rows)["beams", POOLED].n == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"beam_scores": [math.nan, -math.inf]},
        {"beam_scores": [None, None]},
        {"beam_scores": None},
        {"beam_scores": [-0.5]},
        {"beams_correct": None},
        {"beam_texts": []},
    ],
)
def test_beams_without_scores_or_grades_give_no_vote(broken):
    asked = beams([YES, NO], [0.6, 0.4])
    assert measured([row(arm, 0, **asked) for arm in ("base", "a")])
    assert not measured([row("base", 0, **asked), row("a", 0, **{**asked, **broken})])


def test_each_seed_has_its_vote():
    """Two seeds of three samples: one vote is right, so the item counts half; together they would be wrong."""
    drawn = samples([YES, YES, NO, NO, NO, MAYBE], [1, 1, 1, 2, 2, 2])
    found = measured([row(arm, n, **drawn) for arm in ("base", "a") for n in range(3)])["samples", POOLED]
    assert (found.fallback, found.agreed) == (0.5, 1.0)
    assert found.change is not None
    assert (found.change.value, found.change.n) == (0.5, 3)
    # One seed's samples are what a vote costs: 3 of 2 tokens.
    assert found.written == pytest.approx(6 / 10)


def test_an_empty_text_does_not_win_by_count():
    drawn = samples(["", "", " \n", YES], [1] * 4)
    assert measured([row(arm, 0, **drawn) for arm in ("base", "a")])["samples", POOLED].fallback == 1
    silent = samples(["", ""], [1] * 2)
    assert measured([row(arm, 0, **silent) for arm in ("base", "a")])["samples", POOLED].fallback == 0


def test_a_run_of_an_earlier_version_has_its_votes_and_estimated_costs():
    """Without their tokens, texts are taken to be as long as the greedy answer."""
    old = {**beams([YES, NO], [0.6, 0.4]), "beam_tokens": None}
    drawn = {**samples([YES * 10, NO], [1, 1]), "sample_tokens": None}
    rows = [row(arm, n, **old, **drawn, one_shot_correct=True, one_shot_text="x" * 6) for arm in ("base", "a") for n in range(2)]  # fmt: skip
    found = measured(rows)
    assert all(found[way, POOLED].estimated for way in WAYS)
    assert [found[way, POOLED].written for way in ("beams", "samples", "one_shot")] == [2, 2, 1]
    assert (found["beams", POOLED].read, found["one_shot", POOLED].read) == (1.0, None)
    # What beams weigh depends on it.
    longer = [{**each, "beam_texts": [NO, YES, YES], "beam_scores": [-0.1, -0.2, -0.2], "beams_correct": [False, True, True]} for each in rows]  # fmt: skip
    assert measured(longer)["beams", POOLED].fallback == 0
    assert measured([{**each, "open_tokens": 2} for each in longer])["beams", POOLED].fallback == 1


def test_prompts_with_an_example_cost_what_they_have():
    shot = {"one_shot_correct": True, "one_shot_prompt_tokens": 120, "one_shot_answer_tokens": 5}
    found = measured([row(arm, n, **shot) for arm in ("base", "a") for n in range(2)])["one_shot", POOLED]
    assert (found.read, found.written, found.estimated, found.agreed) == (120 / 50, 0.5, False, None)


def test_tasks_vote_by_whole_texts_and_without_right_and_wrong_not_at_all():
    drawn = samples(
        ["Oslo\nA", "Oslo\nB", "Oslo\nC", NO, NO], [1] * 5, samples_correct=[True] * 3 + [False] * 2
    )
    rows = [row(arm, 0, **drawn) for arm in ("base", "a")]
    assert measured(rows)["samples", POOLED].fallback == 1
    whole = [{**each, "open_score": 0.0} for each in rows]
    assert measured(whole)["samples", POOLED].fallback == 0
    assert not measured([{**each, "samples_correct": None} for each in whole])


def test_without_other_decoding_there_are_no_rows():
    assert measured([row(arm, 0) for arm in ("base", "a")]) == {}
