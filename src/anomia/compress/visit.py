"""The loop over the blocks of an unchanged model, with the inputs and outputs of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from anomia.compress.calibration import Batch
from anomia.compress.calls import Call, run_block
from anomia.compress.walk import States

if TYPE_CHECKING:
    from anomia.compress.pipeline import Blocks

Found = TypeVar("Found")


class Pass:
    """One batch at a block. entered: the input states, [B, S, H], valid until the next batch is requested."""

    def __init__(self, block: nn.Module, batch: Batch, entered: torch.Tensor, call: Call) -> None:
        self.batch, self.entered = batch, entered
        self._block, self._call = block, call
        self._left: torch.Tensor | None = None

    def run(self) -> torch.Tensor:
        """Run the block on the batch, once; returns the output states, [B, S, H]."""
        if self._left is None:
            self._left = run_block(self._block, self.entered, self._call)
        return self._left


BlockVisitor = Callable[[int, nn.Module, Iterator[Pass]], Found]
"""Measures a block, given its index, the module and every batch; it doesn't have to run the batches."""


@torch.no_grad()
def visit(
    blocks: Blocks,
    batches: Sequence[Batch],
    look: BlockVisitor[Found],
    *,
    dense: bool = True,
    only: Sequence[int] | None = None,
    first: int = 0,
) -> Iterator[Found]:
    """Yield the result of `look` for one block after the other; the output of one is the input of the next.

    Args:
        dense: discard the states at the end; otherwise an interrupted call can be resumed from them.
        only: the blocks to visit; the others are skipped. All if not given.
        first: the number of blocks that an earlier call has visited.
    """
    visited = range(len(blocks.decoder.modules)) if only is None else only
    states, calls = blocks.enter(batches, dense=dense)
    for place in range(first, len(visited)):
        index = visited[place]
        states.at = place
        with blocks.block(index) as block:
            passes = _passes(block, batches, states, calls[index])
            found = look(index, block, passes)
            # Run the remaining batches too.
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
