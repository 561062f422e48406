"""The model to reshape: how to measure, rebuild and run it. Here in memory; `reshape_in_files` has the one in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.base import Walk
from anomia.compress.reshape.parts import ReshapePlan
from anomia.compress.size import tensor_bytes
from anomia.compress.visit import AtBlock, BlocksInMemory, visit
from anomia.compress.walk import check_states

Measured = Mapping[str, torch.Tensor]
"""The measurements of one block by name: small tensors on the CPU."""


class Subject(Protocol):
    """A model to reshape. model, decoder: with or without weights. device: where it runs."""

    model: Any
    decoder: DecoderBlocks
    device: torch.device

    def check(self, ids: torch.Tensor) -> None:
        """Refuse states that aren't finite, as far as that shows without reading all weights. ids: [1, S]."""
        ...

    def measure(self, walk: Walk, look: Callable[[AtBlock], Measured], *, about: str) -> list[Measured]:
        """Return the results of `look` for each block of the dense model. about: identifies them in a resumed call."""
        ...

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """Context manager for a block with its weights."""
        ...

    def last_states(self, ids: torch.Tensor, only: Sequence[int] | None = None) -> torch.Tensor:
        """Return the last block's output for `ids` [1, S], float32 [1, S, H]. only: run only these blocks, in order."""
        ...

    def build(self, plan: ReshapePlan) -> Subject:
        """Build the new model and keep this one. Raises `CannotExpressError`."""
        ...

    def sizes(self) -> tuple[int, int]:
        """Return the number of parameters and the bytes of all saved tensors; shared tensors count once."""
        ...

    def become(self, fresh: Any) -> None:
        """Replace this model by the new one that `build` returned."""
        ...


class Loaded:
    """A model in memory."""

    def __init__(self, model: nn.Module, decoder: DecoderBlocks) -> None:
        self.model: Any = model
        self.decoder = decoder
        self.device: torch.device = next(model.parameters()).device

    def check(self, ids: torch.Tensor) -> None:
        """Check the states in a pass of the whole model. ids: [1, S]."""
        with rebuild.evaluating(self.model):
            check_states(self.model, self.decoder, ids)

    def measure(self, walk: Walk, look: Callable[[AtBlock], Measured], *, about: str) -> list[Measured]:
        """Measure in one walk, with all states in memory."""
        found = []
        with rebuild.observing(self.model, self.decoder, walk.windows, walk.batch_tokens) as batches:
            for one in visit(BlocksInMemory(self.model, self.decoder), batches, look):
                found.append(one)
                if walk.progress is not None:
                    walk.progress(len(found), len(self.decoder.modules))
        return found

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """Return the model's own block."""
        return nullcontext(self.decoder.modules[index])

    def last_states(self, ids: torch.Tensor, only: Sequence[int] | None = None) -> torch.Tensor:
        """Run the whole model, or only some blocks one after the other. ids: [1, S]; float32 [1, S, H]."""
        if only is None:
            return rebuild.last_states(self.model, self.decoder.name, ids)
        with rebuild.evaluating(self.model):
            return walked(BlocksInMemory(self.model, self.decoder), ids, only)

    def build(self, plan: ReshapePlan) -> Loaded:
        """Build the new model; it shares unchanged tensors with this one."""
        fresh = rebuild.build(self.model, plan)
        blocks = tuple(rebuild.blocks_of(fresh, self.decoder.name))
        return Loaded(fresh, DecoderBlocks(self.decoder.name, blocks))

    def sizes(self) -> tuple[int, int]:
        """Count each tensor in memory once."""
        return sum(p.numel() for p in self.model.parameters()), tensor_bytes(self.model)

    def become(self, fresh: Loaded) -> None:
        """Replace the model's contents; the object stays the same, references to its former modules become stale."""
        rebuild.replace(self.model, fresh.model)


def walked(blocks: Any, ids: torch.Tensor, only: Sequence[int] | None = None) -> torch.Tensor:
    """Run some blocks one after the other on `ids` [1, S] and return the output of the last one, float32 [1, S, H].

    blocks: as in `visit.Blocks`.
    """

    def look(at: AtBlock) -> torch.Tensor:
        (found,) = [one.run() for one in at.passes()]
        return found

    *_, left = visit(blocks, [Batch(ids, None, ("",))], look, only=only)
    return left.float()
