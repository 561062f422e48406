"""The walk over the decoder blocks: what enters each one, and the step from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from anomia.compress.attention import strips_where_faster
from anomia.compress.blocks import Call, DecoderBlocks, Interner, record_calls, run_block
from anomia.compress.calibration import Batch, Windows, make_batches
from anomia.compress.statistics import Group, Needs, observe
from anomia.errors import CompressionError

BATCH_TOKENS = 1024
_CHECKED_TOKENS = 32


class States(Protocol):
    """The hidden states of every batch, before some block; in memory or on disk."""

    def read(self, batch: int) -> torch.Tensor:
        """What enters the block in a batch, [B, S, H]."""
        ...

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """Store what leaves the block in a batch."""
        ...


class MemoryStates:
    """Hidden states in memory, each overwritten by its successor."""

    def __init__(self) -> None:
        self._states: list[torch.Tensor] = []

    def keep(self, batch: int, hidden: torch.Tensor) -> None:
        """Store what enters the first block in the next batch."""
        self._states.append(hidden)

    def read(self, batch: int) -> torch.Tensor:
        """What enters the block in a batch, [B, S, H]."""
        return self._states[batch]

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """Store what leaves the block in a batch."""
        self._states[batch].copy_(hidden)


def make_model_batches(
    decoder: DecoderBlocks, windows: Windows, needs: Needs, *, batch_tokens: int = BATCH_TOKENS
) -> list[Batch]:
    """Batches that suit the model: a mixture of experts would route padding to experts, so it gets none.

    The default is small because a batch whose activations fit into a CPU's cache is the fastest there.
    """
    mixture = any(
        "expert" in name.lower() or getattr(module, "is_transposed", None) is not None
        for name, module in decoder.modules[-1].named_modules()
    )
    return make_batches(windows, batch_tokens=batch_tokens, padded=not mixture, by_language=needs.languages)


def enter(
    model: nn.Module,
    decoder: DecoderBlocks,
    batches: Sequence[Batch],
    keep: Callable[[int, torch.Tensor], None],
) -> list[list[Call]]:
    """How each block is called, by block and batch; `keep` gets what enters the first block in each batch."""
    intern = Interner()
    device = next(model.parameters()).device
    calls: list[list[Call]] = [[] for _ in decoder.modules]
    for index, batch in enumerate(batches):
        hidden, recorded = record_calls(model, decoder, batch.input_ids.to(device))
        keep(index, hidden.detach().clone())
        for mine, call in zip(calls, recorded, strict=True):
            mine.append(Call(intern(call.args), intern(dict(call.kwargs))))
    return calls


@torch.no_grad()
def check_walk(model: nn.Module, decoder: DecoderBlocks, batch: Batch) -> None:
    """Compare the blocks run one after the other with the model's own pass, on a few tokens.

    Raises `CompressionError` for a model whose blocks depend on more than what enters them (caches shared
    between blocks, say): its statistics would be silently wrong.
    """
    device = next(model.parameters()).device
    ids = batch.input_ids[:1, :_CHECKED_TOKENS].to(device)
    expected: list[torch.Tensor] = []

    def read(_: nn.Module, __: Any, out: Any) -> None:
        expected.append(out if torch.is_tensor(out) else out[0])

    handle = decoder.modules[-1].register_forward_hook(read)
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    hidden, calls = record_calls(model, decoder, ids)
    for block, call in zip(decoder.modules, calls, strict=True):
        hidden = run_block(block, hidden, call)
    if not torch.allclose(hidden.float(), expected[0].float(), rtol=1e-2, atol=1e-2, equal_nan=True):
        raise CompressionError(
            f"the blocks {decoder.name} of {type(model).__name__} depend on more than their inputs; run one after"
            " the other they give other states than the whole model, so it can't be pruned with calibration text"
        )


@torch.no_grad()
def advance(block: nn.Module, states: States, calls: Sequence[Call]) -> None:
    """Send every batch through a block."""
    for index, call in enumerate(calls):
        states.write(index, run_block(block, states.read(index), call))


def walk(
    model: nn.Module, decoder: DecoderBlocks, batches: Sequence[Batch], needs: Needs
) -> Iterator[tuple[int, list[Group]]]:
    """The statistics of one block after the other; between two, the caller may prune the block in place."""
    states = MemoryStates()
    calls = enter(model, decoder, batches, states.keep)
    for index, block in enumerate(decoder.modules):
        where = f"{decoder.name}.{index}"
        yield index, observe(block, batches, states.read, calls[index], needs, where=where)
        # Nothing reads what leaves the last block.
        if index + 1 < len(decoder.modules):
            advance(block, states, calls[index])
        calls[index] = []


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of activations instead of asking the system for it again and again.

    It learns from the largest buffer that was freed up to which size (32 MiB at most) to keep memory. Without
    this, one second in five of a walk goes into pages that are handed back and cleared once more.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def calibrating(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Evaluation mode, attention in strips, experts one by one, for as long as activations are observed.

    device: where the blocks will run, if their weights aren't there yet.
    """
    training = model.training
    experts = getattr(getattr(model, "config", None), "_experts_implementation", None)
    model.eval()
    _keep_freed_memory()
    if experts not in (None, "eager"):
        model.set_experts_implementation("eager")  # type: ignore[operator]
    try:
        with strips_where_faster(model, device):
            yield
    finally:
        model.train(training)
        if experts not in (None, "eager"):
            model.set_experts_implementation(experts)  # type: ignore[operator]
