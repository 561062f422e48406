"""When picking counts as recognising: only where base needs the question for sure, and somebody asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from anomia.measure.frame import RECOGNITION
from anomia.measure.scope import LABELS, scope_of

COLUMNS = {RECOGNITION[name].column for name in LABELS} | {
    "choice_no_question_correct", "choice_passage_no_question_correct",
}  # fmt: skip


def base_rows(items: int, **columns: Any) -> pl.DataFrame:
    """Base's rows of one language with these verdicts; what is not given was not asked."""
    values = {name: pl.Series([None] * items, dtype=pl.Boolean) for name in COLUMNS}
    values |= {
        name: pl.Series(np.asarray(column), dtype=pl.Boolean)
        for name, column in columns.items()
        if name in COLUMNS
    }
    presence = columns.get("string_presence", np.full(items, 0.25))
    return pl.DataFrame(
        {
            "arm": ["base"] * items,
            "language": ["english"] * items,
            "passage": np.arange(items),
            "open_correct": [True, True, False] * (items // 3) + [True] * (items % 3),
            "string_presence": presence,
            "open_floor": [0.0] * items,
            **{floor: [0.25] * items for floor in {RECOGNITION[name].floor for name in LABELS}},
            **values,
        }
    )


def first(items: int, share: float) -> np.ndarray:
    """Right in so many of the first items."""
    return np.arange(items) < round(share * items)


def test_standard_options_are_recognised_where_both_controls_fail() -> None:
    found = scope_of(
        base_rows(100, choice_correct=first(100, 0.9), choice_no_question_correct=first(100, 0.3))
    )
    assert (found.decided_by, found.word) == ("choice", "recognised")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "were not tried without the question"),
        ({"choice_no_question_correct": first(100, 0.85)}, "gold is picked without the question in 85 %"),
        ({"choice_no_question_correct": first(100, 0.3), "string_presence": np.ones(100)}, "by searching the passage in 100 %"),
    ],
)  # fmt: skip
def test_else_they_are_only_picked(more: dict[str, Any], why: str) -> None:
    found = scope_of(base_rows(100, choice_correct=first(100, 0.9), **more))
    assert (found.decided_by, found.word) == ("choice", "picked")
    assert why in found.why


def test_options_that_base_can_only_guess_say_where_base_and_guessing_are() -> None:
    found = scope_of(base_rows(100, choice_correct=first(100, 0.3)))
    assert "leave base at 30 %, less than 10 points above guessing (25 %)" in found.why


def test_options_from_the_same_passage_need_a_control_of_their_own() -> None:
    asked = {"choice_correct": first(100, 0.9), "choice_no_question_correct": first(100, 0.9),
             "choice_passage_correct": first(100, 0.9)}  # fmt: skip
    assert scope_of(base_rows(100, **asked)).word == "picked"
    found = scope_of(base_rows(100, **asked, choice_passage_no_question_correct=first(100, 0.4)))
    assert (found.decided_by, found.word) == ("choice_passage", "recognised")


def test_an_advantage_of_ten_points_in_few_items_is_none() -> None:
    found = scope_of(
        base_rows(30, choice_correct=first(30, 0.9), choice_no_question_correct=~first(30, 0.25))
    )
    assert found.word == "picked"
    assert "too few items to tell" in found.why


@pytest.mark.parametrize("items", [24, 40, 200])
def test_a_base_that_needs_no_question_is_seldom_taken_for_one_that_does(items: int) -> None:
    generator = np.random.default_rng(items)
    runs = 300
    taken = 0
    for _ in range(runs):
        with_it, without = (generator.random(items) < 0.75 for _ in range(2))
        found = scope_of(base_rows(items, choice_correct=with_it, choice_no_question_correct=without))
        taken += found.word == "recognised"
    assert taken / runs <= 0.05
