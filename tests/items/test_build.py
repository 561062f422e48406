"""The fixed subset, its exemplar, and the options of each item."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from anomia.errors import DataError
from anomia.items import build_items, read_questions
from tests.conftest import entry

Write = Callable[..., Path]


def build(file: Path, limit: int | None = None, seed: int = 42):
    return build_items(read_questions(f"jsonl:{file}"), dataset="d", limit=limit, seed=seed)


def test_the_subset_is_the_beginning_of_the_papers_shuffle(write_jsonl: Write) -> None:
    file = write_jsonl([entry(n) for n in range(30)])
    order = [f"english-{n}" for n in range(30)]
    random.Random(42).shuffle(order)
    ten = build(file, 10)["english"]
    assert [item.question.id for item in ten.items] == order[:10]
    assert [item.question.id for item in build(file, 20)["english"].items[:10]] == order[:10]
    lowest = next(f"english-{n}" for n in range(30) if f"english-{n}" not in order[:10])
    assert ten.exemplar is not None
    assert ten.exemplar.id == lowest


def test_where_the_subset_takes_all_the_last_is_held_out(write_jsonl: Write) -> None:
    found = build(write_jsonl([entry(n) for n in range(8)]), 200)["english"]
    assert len(found.items) == 7
    assert found.exemplar is not None
    assert found.exemplar.id not in {item.question.id for item in found.items}


def test_options_hold_gold_once_and_an_items_draws_do_not_depend_on_the_limit(write_jsonl: Write) -> None:
    file = write_jsonl([entry(n) for n in range(30)])
    small = {item.question.id: item for item in build(file, 5)["english"].items}
    for item in build(file, 25)["english"].items:
        for options in item.options.values():
            assert len(set(options)) == 4
            assert options.count(item.question.gold) == 1
        assert item.control != item.question.gold
        if item.question.id in small:
            assert small[item.question.id] == item


def test_gold_stands_at_every_place(write_jsonl: Write) -> None:
    items = build(write_jsonl([entry(n) for n in range(200)]))["english"].items
    places = [item.options["standard"].index(item.question.gold) for item in items]
    assert all(30 <= places.count(place) <= 70 for place in range(4))


def test_own_distractors_are_used(write_jsonl: Write) -> None:
    file = write_jsonl([entry(0, distractors=["x", "y", "z"]), *(entry(n) for n in range(1, 9))])
    item = next(i for i in build(file, 8)["english"].items if i.question.id == "english-0")
    assert set(item.options["standard"]) == {"Person0", "x", "y", "z"}


def test_an_answer_that_normalizes_to_nothing_is_left_out_and_counted(write_jsonl: Write) -> None:
    file = write_jsonl(
        [entry(0, answers=["?!"]), entry(1, answers=["…", "Person1"]), *map(entry, range(2, 9))]
    )
    found = build(file)["english"]
    assert found.excluded["ungradable"] == 1
    everyone = [*(item.question for item in found.items), found.exemplar]
    assert {q.gold for q in everyone if q and q.id == "english-1"} == {"Person1"}
    assert "english-0" not in {q.id for q in everyone if q}


def test_fewer_than_four_answers(write_jsonl: Write) -> None:
    file = write_jsonl([entry(n, answers=["same", "x"] if n else ["other"]) for n in range(9)])
    with pytest.raises(
        DataError, match="2 distinct answers in 9 questions; multiple choice needs at least four"
    ):
        build(file)
