"""Loops: any period up to 16, over at least half of the output, at least twice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.loops import (
    LONGEST_PARAGRAPH,
    LONGEST_PIECE,
    SHORTEST_LOOP,
    final_loop,
    is_loop,
    is_text_loop,
    loop_of,
    settled_loop,
)


def plainly(tokens: Sequence[int]) -> bool:
    """The definition, word for word: a stretch, a period, every token as the one a period before."""
    size = len(tokens)
    return any(
        all(tokens[k] == tokens[k + period] for k in range(start, end - period))
        for period in range(1, LONGEST_PIECE + 1)
        for start in range(size)
        for end in range(start + max(2 * period, SHORTEST_LOOP, (size + 1) // 2), size + 1)
    )


@given(st.lists(st.integers(0, 2), max_size=26))
def test_it_is_the_definition(tokens: list[int]) -> None:
    assert is_loop(tokens) == plainly(tokens)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=16),
    st.integers(0, 40),
    st.lists(st.integers(10, 99), max_size=20, unique=True),
    st.data(),
)
def test_a_piece_repeated_over_half_is_a_loop_wherever_it_stands(
    piece: list[int], more: int, others: list[int], data: st.DataObject
) -> None:
    span = max(SHORTEST_LOOP, 2 * len(piece), len(others)) + more
    before = data.draw(st.integers(0, len(others)))
    assert is_loop([*others[:before], *islice(cycle(piece), span), *others[before:]])


@given(st.lists(st.integers(), unique=True, max_size=64))
def test_tokens_that_never_return_are_no_loop(tokens: list[int]) -> None:
    assert not is_loop(tokens)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_names_and_direction_of_tokens_mean_nothing(tokens: list[int]) -> None:
    assert is_loop(tokens) == is_loop(tokens[::-1]) == is_loop([f"<{token}>" for token in tokens])


def test_the_bounds() -> None:
    assert is_loop([*range(16), *range(16)])
    assert not is_loop([*range(17), *range(17)])
    assert not is_loop([*range(16), *range(15)])
    assert is_loop([7] * 16 + [*range(100, 116)])
    assert not is_loop([7] * 15 + [*range(100, 117)])
    # 1,000,000 in single digits
    assert not is_loop([1, 9, 0, 0, 0, 9, 0, 0, 0])
    assert not is_loop([])


@pytest.mark.parametrize(
    "text",
    [
        "\n\nThe question:\n\nThe question:\n\nThe question:\n\nThe question:",
        " 225 days.\n\nThe answer is 225 days.\n\nThe answer is 225 days.\n\nThe answer is 2",
        "the the the the the the the",
        "\n\nKilimo cha mazao kilelelelelelelelelelelelelelelelelelelelelele",
        "* 10000000000000000000000000000",
        "붉은색이 붉은색이 붉은색이 붉은색이 붉은색이 붉은색이 붉",
        "กรุงเทพกรุงเทพกรุงเทพกรุงเทพ",
    ],
)
def test_loops_in_texts(text: str) -> None:
    assert is_text_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Rome",
        "1,000,000",
        "No, no, no.",
        "It is the capital of Peru, and the largest city of Peru.",
        "กรุงเทพมหานคร",
    ],
)
def test_what_is_no_loop_in_texts(text: str) -> None:
    assert not is_text_loop(text)


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        (list("abcdefgh") + list("xy") * 9, (8, 2)),
        ([5] * 12, (0, 1)),
        ([5] * 11, None),
        # A truncated last repetition counts.
        ([1, *range(10, 60), *range(10, 60), *range(10, 31)], (1, 50)),
        ([*range(300), *range(172, 300)], (172, 128)),
        ([*range(300), *range(171, 300)], None),
        # It stopped repeating before the end.
        ([1, 2] * 20 + [3], None),
        ([], None),
    ],
)
def test_the_loop_that_an_output_ends_in(tokens, loop):
    assert final_loop(tokens) == loop


@given(
    st.lists(st.integers(0, 3), max_size=20),
    st.lists(st.integers(0, 3), min_size=1, max_size=20),
    st.integers(12, 30),
    st.integers(0, 19),
)
def test_a_loop_is_found_wherever_it_starts(before, piece, times, more):
    tokens = [*before, *piece * times, *piece[: more % len(piece)]]
    found = final_loop(tokens)
    assert found is not None
    assert found.start <= len(before)
    repeated = tokens[found.start :]
    assert all(one == other for one, other in zip(repeated, repeated[found.period :], strict=False))


def settled_plainly(tokens: Sequence[int], limit: int) -> tuple[int, int, int] | None:
    """The definition, word for word: start, period and number of tokens."""
    half = (limit + 1) // 2
    if half < SHORTEST_LOOP:
        return None
    for end in range(half, len(tokens) + 1):
        found = [
            (start, period, end)
            for period in range(1, min(LONGEST_PARAGRAPH, limit // 4) + 1)
            for start in range(end - half + 1)
            if all(tokens[k] == tokens[k + period] for k in range(start, end - period))
        ]
        if found:
            return min(found)
    return None


@given(st.lists(st.integers(0, 1), max_size=40), st.integers(20, 44))
def test_a_loop_is_settled_once_it_spans_half_of_the_limit(tokens: list[int], limit: int) -> None:
    tokens = tokens[:limit]
    found = settled_loop(tokens, limit)
    assert (None if found is None else (*found.loop, found.tokens)) == settled_plainly(tokens, limit)


@given(
    st.lists(st.integers(0, 4), max_size=30),
    st.lists(st.integers(0, 9), min_size=1, max_size=20),
    st.lists(st.integers(0, 9), max_size=120),
    st.booleans(),
)
def test_nothing_that_follows_changes_a_settled_loop(
    before: list[int], piece: list[int], after: list[int], ended: bool
) -> None:
    limit = 160
    whole = [*before, *islice(cycle(piece), limit // 2), *after][: limit - ended]
    found = settled_loop(whole, limit)
    assert found is not None
    stopped = whole[: found.tokens]
    assert loop_of(stopped, limit=limit, ended=None) == loop_of(whole, limit=limit, ended=ended) == found.loop
    # One token earlier nothing was settled.
    assert settled_loop(stopped[:-1], limit) is None


def test_a_loop_that_is_left_before_half_of_the_limit_is_none() -> None:
    sound = [*range(100, 150), *([1, 2] * 24), *range(200, 210)]
    assert settled_loop(sound, 200) is None
    assert loop_of(sound, limit=200, ended=True) is None
    assert loop_of([*sound, *([7] * 92)], limit=200, ended=False) == (108, 1)
