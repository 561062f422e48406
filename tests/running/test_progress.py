"""What a user sees of a stage."""

from __future__ import annotations

from typing import Any

from anomia.running.progress import stage_counter


class Seen:
    def __init__(self) -> None:
        self.stages: list[list[Any]] = []

    def stage(self, text: str, total: int) -> None:
        self.stages.append([text, total, 0])

    def advance(self) -> None:
        self.stages[-1][2] += 1


def test_each_count_is_a_stage_of_its_own() -> None:
    """Blocks, then the steps of an update of the whole model, then the blocks of the next step of a chain."""
    seen = Seen()
    count = stage_counter(seen, "compressing")  # type: ignore[arg-type]
    for total in (3, 5, 3, 3):
        for done in range(total):
            count(done + 1, total)
    assert seen.stages == [["compressing", total, total] for total in (3, 5, 3, 3)]


def test_a_resumed_call_counts_what_an_earlier_one_did() -> None:
    seen = Seen()
    count = stage_counter(seen, "compressing")  # type: ignore[arg-type]
    count(4, 6)
    count(5, 6)
    assert seen.stages == [["compressing", 6, 5]]
