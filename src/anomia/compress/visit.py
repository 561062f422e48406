"""The loop over a model's blocks, one at a time: in memory, or from one folder into another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import nn
from torch.func import functional_call

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch
from anomia.compress.calls import Call, run_block
from anomia.compress.walk import MemoryStates, States, enter
from anomia.errors import RefusedError

Found = TypeVar("Found")


class Blocks(Protocol):
    """A source and destination of a model's blocks, one at a time."""

    model: nn.Module
    decoder: DecoderBlocks

    def enter(self, batches: Sequence[Batch], *, dense: bool) -> tuple[States, list[list[Call]]]:
        """Return the first block's inputs, and the calls by block and batch. dense: for a loop that changes nothing."""
        ...

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """Context manager for a block with its weights."""
        ...

    def store(self, index: int, packed: Mapping[str, Any]) -> None:
        """Store a changed block. packed: codes to store in place of matrices, by name in the block."""
        ...


class BlocksInMemory:
    """The blocks of a loaded model, changed in place.

    packed: if given, gets the codes, by the matrix's name in the model.
    """

    def __init__(
        self, model: nn.Module, decoder: DecoderBlocks, packed: dict[str, Any] | None = None
    ) -> None:
        self.model = model
        self.decoder = decoder
        self._packed = packed

    def enter(self, batches: Sequence[Batch], *, dense: bool) -> tuple[MemoryStates, list[list[Call]]]:
        """Keep the states in memory."""
        states = MemoryStates()
        return states, enter(self.model, self.decoder, batches, states.keep)

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """Return the model's own block."""
        return nullcontext(self.decoder.modules[index])

    def store(self, index: int, packed: Mapping[str, Any]) -> None:
        """Keep the codes if they are wanted; the block was changed in place."""
        if self._packed is not None:
            where = self.decoder.path(index)
            self._packed |= {f"{where}.{name}": codes for name, codes in packed.items()}


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


class Beside:
    """The same block as it was before any change, on its own states: those of the model that was never changed.

    Args:
        states: its inputs, [B, S, H] per batch.
    """

    def __init__(self, block: nn.Module, states: States, calls: Sequence[Call]) -> None:
        self.states = states
        self._block, self._calls = block, calls
        self._weights = {name: value.detach().clone() for name, value in block.named_parameters()}

    def run(self, batch: int) -> torch.Tensor:
        """Run the unchanged block on a batch; returns its outputs, [B, S, H]. Hooks of the block see this pass."""

        def unchanged(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self._block, self._weights, args, kwargs)

        return run_block(unchanged, self.states.read(batch), self._calls[batch])

    def go_on(self) -> None:
        """Make the outputs the inputs of the next block."""
        for batch in range(len(self._calls)):
            self.states.write(batch, self.run(batch))


class AtBlock:
    """A block with its weights and inputs.

    Args:
        where: its path in the model.
        batches: the tokens; empty if nothing is run.
        states: its inputs, [B, S, H] per batch; None if nothing is run.
        calls: its other arguments, per batch. Those of a model whose blocks can't be run alone run all of it.
        beside: the unchanged block on its own states, if that was asked for.
    """

    def __init__(
        self, index: int, block: nn.Module, where: str, batches: Sequence[Batch], states: States | None,
        calls: Sequence[Call], beside: Beside | None = None,
    ) -> None:  # fmt: skip
        self.beside = beside
        self.index, self.block, self.where = index, block, where
        self.batches, self.states, self.calls = batches, states, calls
        self._passes = self._run()

    def passes(self) -> Iterator[Pass]:
        """Yield the batches, once; the outputs become the inputs of the next block."""
        return self._passes

    def _run(self) -> Iterator[Pass]:
        if self.states is None:
            return
        for number, (batch, call) in enumerate(zip(self.batches, self.calls, strict=True)):
            if call.whole is None:
                one = Pass(self.block, batch, self.states.read(number), call)
                yield one
                self.states.write(number, one.run())

    def check_outputs(self) -> torch.Tensor | None:
        """Refuse outputs that are NaN or infinite, in the first batch; padding may be anything.

        Returns the outputs, [(streams,) B, S, H]; None if the block isn't run alone.
        """
        if not self.calls or self.calls[0].whole is not None or self.calls[0].skipped:
            return None
        assert self.states is not None
        left = run_block(self.block, self.states.read(0), self.calls[0])  # [(streams,) B, S, H]
        batch = self.batches[0]
        real = left
        if batch.real is not None:
            real = left[..., batch.real.to(left.device).view(batch.input_ids.shape), :]
        broken = int((~torch.isfinite(real)).sum())
        if broken:
            raise RefusedError(
                f"the states that leave {self.where} are NaN or infinite in {broken:,} of {real.numel():,} "
                "values, so the model answers nothing; it is damaged, or needs a wider type (--dtype "
                "bfloat16 or float32)"
            )
        return left


@torch.no_grad()
def visit(
    blocks: Blocks,
    batches: Sequence[Batch] | None,
    look: Callable[[AtBlock], Found],
    *,
    dense: bool = True,
    only: Sequence[int] | None = None,
    first: int = 0,
    beside: bool = False,
) -> Iterator[Found]:
    """Yield the result of `look` for one block after the other; the output of one, [B, S, H], is the input of the next.

    Args:
        batches: the tokens to run, [B, S] each; None runs nothing.
        look: measures or changes the block; what it leaves of the passes is run afterwards.
        dense: discard the states at the end; otherwise they stay for an interrupted call to be resumed from them.
        only: the blocks to visit; the others are skipped. All if not given.
        first: the number of blocks that an earlier call has visited.
        beside: also run the model that was never changed, on states of its own.
    """
    visited = range(len(blocks.decoder.modules)) if only is None else only
    if first == len(visited):
        return
    states: States | None = None
    calls: list[list[Call]] = [[] for _ in blocks.decoder.modules]
    if batches is not None:
        states, calls = blocks.enter(batches, dense=dense)
    others = _unchanged_up_to(blocks, batches, visited[:first]) if beside and batches is not None else None
    for place in range(first, len(visited)):
        index = visited[place]
        if states is not None:
            states.at = place
        with blocks.block(index) as block:
            twin = None
            if others is not None:
                others.at = place
                twin = Beside(block, others, calls[index])
            at = AtBlock(index, block, blocks.decoder.path(index), batches or (), states, calls[index], twin)
            found = look(at)
            if place + 1 < len(visited):
                for _ in at.passes():
                    pass
                if twin is not None:
                    twin.go_on()
        calls[index] = []
        yield found
    if states is not None and dense:
        states.remove()
    if others is not None:
        others.remove()


def _unchanged_up_to(blocks: Blocks, batches: Sequence[Batch], visited: Sequence[int]) -> States:
    """Return the states of the unchanged model after blocks that an earlier call has visited."""
    states, calls = blocks.enter(batches, dense=True)
    for place, index in enumerate(visited):
        states.at = place
        with blocks.block(index) as block:
            Beside(block, states, calls[index]).go_on()
    return states
