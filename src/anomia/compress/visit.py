"""The loop over the blocks of a model that stays as it is: what enters each one, and what leaves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from anomia.compress.blocks import Call, run_block
from anomia.compress.calibration import Batch
from anomia.compress.walk import States

if TYPE_CHECKING:
    from anomia.compress.pipeline import Blocks

Found = TypeVar("Found")


class Pass:
    """One batch before a block. entered: its states, [B, S, H], until the next batch is asked for."""

    def __init__(self, block: nn.Module, batch: Batch, entered: torch.Tensor, call: Call) -> None:
        self.batch, self.entered = batch, entered
        self._block, self._call = block, call
        self._left: torch.Tensor | None = None

    def run(self) -> torch.Tensor:
        """Send it through the block once; what leaves it, [B, S, H]."""
        if self._left is None:
            self._left = run_block(self._block, self.entered, self._call)
        return self._left


Look = Callable[[int, nn.Module, Iterator[Pass]], Found]
"""What is seen of a block: from its number, it itself and every batch, which need not be run."""


@torch.no_grad()
def visit(
    blocks: Blocks,
    batches: Sequence[Batch],
    look: Look[Found],
    *,
    dense: bool = True,
    only: Sequence[int] | None = None,
    first: int = 0,
) -> Iterator[Found]:
    """What `look` finds of one block after the other; what leaves one enters the next.

    Args:
        dense: for states that are given up at the end; else those that an interrupted call can go on with.
        only: the blocks that are visited, the others left out; all if not given.
        first: how many of them an earlier call has visited.
    """
    visited = range(len(blocks.decoder.modules)) if only is None else only
    states, calls = blocks.enter(batches, dense=dense)
    for place in range(first, len(visited)):
        index = visited[place]
        states.at = place
        with blocks.block(index) as block:
            passes = _passes(block, batches, states, calls[index])
            found = look(index, block, passes)
            # Batches that it didn't look at go through all the same.
            for _ in passes:
                pass
        calls[index] = []
        yield found
    states.remove()


def _passes(
    block: nn.Module, batches: Sequence[Batch], states: States, calls: Sequence[Call]
) -> Iterator[Pass]:
    for number, (batch, call) in enumerate(zip(batches, calls, strict=True)):
        one = Pass(block, batch, states.read(number), call)
        yield one
        states.write(number, one.run())
