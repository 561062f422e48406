"""The model that is reshaped: how it is measured, built anew and run, in memory or, elsewhere, in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Batch, Windows
from anomia.compress.pipeline import BlocksInMemory, Progress
from anomia.compress.reshape import rebuild
from anomia.compress.reshape.parts import ReshapePlan
from anomia.compress.size import tensor_bytes
from anomia.compress.visit import Look, Pass, visit
from anomia.compress.walk import check_states

Measured = Mapping[str, torch.Tensor]
"""What is known of one block, by name; small tensors on the CPU."""


class Subject(Protocol):
    """A model that is reshaped. model, decoder: with or without weights. device: where it is computed."""

    model: Any
    decoder: DecoderBlocks
    device: torch.device

    def check(self, ids: torch.Tensor) -> None:
        """Refuse, before any work, states that aren't finite, as far as that can be seen without reading all weights."""
        ...

    def measure(
        self,
        windows: Windows,
        look: Look[Measured],
        *,
        about: str,
        batch_tokens: int,
        progress: Progress | None,
    ) -> list[Measured]:
        """What `look` finds of each block of the dense model. about: what that is, for a call that is continued."""
        ...

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """A block with its weights, for as long as it is needed."""
        ...

    def last_states(self, ids: torch.Tensor, only: Sequence[int] | None = None) -> torch.Tensor:
        """What leaves the last block on `ids` [1, S], float32 [1, S, H]. only: these blocks, one after the other."""
        ...

    def build(self, plan: ReshapePlan) -> Subject:
        """The new model, beside this one. Raises `CannotExpressError`."""
        ...

    def sizes(self) -> tuple[int, int]:
        """Parameters, and bytes of all saved tensors, shared ones once."""
        ...

    def become(self, fresh: Any) -> None:
        """Let the new model, as `build` gave it, take the place of this one."""
        ...


class Loaded:
    """A model in memory."""

    def __init__(self, model: nn.Module, decoder: DecoderBlocks) -> None:
        self.model: Any = model
        self.decoder = decoder
        self.device: torch.device = next(model.parameters()).device

    def check(self, ids: torch.Tensor) -> None:
        """A pass of the whole model shows it."""
        with rebuild.evaluating(self.model):
            check_states(self.model, self.decoder, ids)

    def measure(
        self,
        windows: Windows,
        look: Look[Measured],
        *,
        about: str,
        batch_tokens: int,
        progress: Progress | None,
    ) -> list[Measured]:
        """In one walk, with all states in memory."""
        found = []
        with rebuild.observing(self.model, self.decoder, windows, batch_tokens) as batches:
            for one in visit(BlocksInMemory(self.model, self.decoder), batches, look):
                found.append(one)
                if progress is not None:
                    progress(len(found), len(self.decoder.modules))
        return found

    def block(self, index: int) -> AbstractContextManager[nn.Module]:
        """The block as it lies in the model."""
        return nullcontext(self.decoder.modules[index])

    def last_states(self, ids: torch.Tensor, only: Sequence[int] | None = None) -> torch.Tensor:
        """From a pass of the whole model, where no block is left out."""
        if only is None:
            return rebuild.last_states(self.model, self.decoder.name, ids)
        with rebuild.evaluating(self.model):
            return walked(BlocksInMemory(self.model, self.decoder), ids, only)

    def build(self, plan: ReshapePlan) -> Loaded:
        """Untouched tensors are shared with this model."""
        fresh = rebuild.build(self.model, plan)
        blocks = tuple(rebuild.blocks_of(fresh, self.decoder.name))
        return Loaded(fresh, DecoderBlocks(self.decoder.name, blocks))

    def sizes(self) -> tuple[int, int]:
        """Counted by their place in memory."""
        return sum(p.numel() for p in self.model.parameters()), tensor_bytes(self.model)

    def become(self, fresh: Loaded) -> None:
        """The model keeps its identity; references to its former modules are stale."""
        rebuild.replace(self.model, fresh.model)


def walked(blocks: Any, ids: torch.Tensor, only: Sequence[int] | None = None) -> torch.Tensor:
    """What leaves the last of some blocks, run one after the other on `ids` [1, S]; float32 [1, S, H].

    blocks: as in `pipeline.Blocks`.
    """

    def look(_: int, __: nn.Module, passes: Iterator[Pass]) -> torch.Tensor:
        (found,) = [one.run() for one in passes]
        return found

    *_, left = visit(blocks, [Batch(ids, None, ("",))], look, only=only)
    return left.float()
