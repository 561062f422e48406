"""Where scoring begins, whatever tokens are: ids of a tokenizer here, texts of a server's tokens there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anomia.probe.shared import common_prefix, distinct_position, scoring_start

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
ENCODED = st.lists(TOKENS, min_size=1, max_size=4)


@given(prompt=TOKENS, continued=ENCODED)
def test_all_share_what_is_not_scored_and_something_is_left_of_each(
    prompt: list[int], continued: list[list[int]]
) -> None:
    start = scoring_start(prompt, continued)
    assert all(sequence[:start] == prompt[:start] for sequence in continued)
    assert all(len(sequence) > start for sequence in continued)
    further = [sequence[: start + 1] for sequence in continued]
    assert (
        any(len(sequence) == start + 1 for sequence in continued)
        or any(sequence != prompt[: start + 1] for sequence in further)
        or start == len(prompt)
    )


@given(prompt=TOKENS, continued=ENCODED)
def test_texts_of_tokens_are_scored_from_where_their_ids_are(
    prompt: list[int], continued: list[list[int]]
) -> None:
    texts = [[f"token {n}" for n in sequence] for sequence in continued]
    words = [f"token {n}" for n in prompt]
    assert scoring_start(words, texts) == scoring_start(prompt, continued)
    assert scoring_start(words, texts, first=1) == max(1, scoring_start(prompt, continued))
    assert common_prefix(texts) == common_prefix(continued)


@given(sequence=TOKENS, rivals=st.lists(TOKENS, max_size=4), start=st.integers(0, 6))
def test_a_distinct_position_tells_a_sequence_from_every_rival(
    sequence: list[int], rivals: list[list[int]], start: int
) -> None:
    found = distinct_position(sequence, rivals, start)
    if found is None:
        assert start >= len(sequence) or any(rival[: len(sequence)] == sequence for rival in rivals)
        return
    assert found >= start
    assert all(rival[: found + 1] != sequence[: found + 1] for rival in rivals)
    assert found == start or any(rival[:found] == sequence[:found] for rival in rivals)
