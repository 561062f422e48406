"""The walk over the decoder blocks: what enters each one, and the step from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from anomia.compress.attention import strips_where_faster
from anomia.compress.blocks import (
    WITHOUT_TEXT,
    Call,
    DecoderBlocks,
    Interner,
    has_experts,
    record_calls,
    run_block,
)
from anomia.compress.calibration import Batch, Windows, make_batches
from anomia.compress.statistics import Needs
from anomia.errors import CompressionError

BATCH_TOKENS = 1024
_CHECKED_TOKENS = 32


class States(Protocol):
    """The hidden states of every batch, before block `at`; in memory or on disk."""

    at: int

    def read(self, batch: int) -> torch.Tensor:
        """What enters the block in a batch, [B, S, H]."""
        ...

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """Store what leaves the block in a batch."""
        ...

    def remove(self) -> None:
        """Give their place back."""
        ...


class MemoryStates:
    """Hidden states in memory, each overwritten by its successor."""

    def __init__(self) -> None:
        self.at = 0
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

    def remove(self) -> None:
        """Forget all states."""
        self._states.clear()


def make_model_batches(
    decoder: DecoderBlocks, windows: Windows, needs: Needs, *, batch_tokens: int = BATCH_TOKENS
) -> list[Batch]:
    """Batches that suit the model: a mixture of experts would route padding to experts, so it gets none.

    The default is small because a batch whose activations fit into a CPU's cache is the fastest there.
    """
    mixture = any(map(has_experts, decoder.modules))
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
            mine.append(call._replace(args=intern(call.args), kwargs=intern(dict(call.kwargs))))
    return calls


@torch.no_grad()
def check_walk(model: nn.Module, decoder: DecoderBlocks, batch: Batch) -> None:
    """Compare the blocks run one after the other with the model's own pass, on a few tokens.

    Raises `CompressionError` for a model whose blocks depend on more than what enters them (caches shared
    between blocks, say), that calls a block more than once, or whose tokens see later ones: its statistics would be
    silently wrong.
    """
    device = next(model.parameters()).device
    ids = batch.input_ids[:1, :_CHECKED_TOKENS].to(device)
    hidden, calls = record_calls(model, decoder, ids)
    expected = _leaving(model, decoder, ids)
    for block, call in zip(decoder.modules, calls, strict=True):
        hidden = run_block(block, hidden, call)
    if not _alike(hidden, expected):
        raise CompressionError(
            f"the blocks {decoder.name} of {type(model).__name__} depend on more than their inputs; run one after"
            " the other they give other states than the whole model, so it can't be pruned with calibration text"
        )
    changed = ids.clone()
    changed[:, -1] = ids[:, 0] if ids.shape[1] > 1 and ids[0, 0] != ids[0, -1] else (ids[:, -1] + 1) % _CHECKED_TOKENS
    if not _alike(_leaving(model, decoder, changed)[:, :-1], expected[:, :-1]):
        raise CompressionError(
            f"{type(model).__name__} lets a token see the ones after it, so padding would enter the statistics; load it "
            "as a causal model (is_decoder in config.json)"
        )


def _leaving(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> torch.Tensor:
    """What leaves the last block that the model calls, [B, S, H]."""
    left: dict[int, torch.Tensor] = {}

    def reader(index: int) -> Callable[..., None]:
        def read(_: nn.Module, __: Any, out: Any) -> None:
            if index in left:
                raise CompressionError(
                    f"{type(model).__name__} calls {decoder.path(index)} more than once for a text, so its statistics "
                    f"can't be followed block by block; {WITHOUT_TEXT}"
                )
            left[index] = out if torch.is_tensor(out) else out[0]

        return read

    with ExitStack() as stack:
        for index, block in enumerate(decoder.modules):
            stack.callback(block.register_forward_hook(reader(index)).remove)
        model(input_ids=ids, use_cache=False)
    return left[max(left)]


def _alike(states: torch.Tensor, others: torch.Tensor) -> bool:
    return torch.allclose(states.float(), others.float(), rtol=1e-2, atol=1e-2, equal_nan=True)


@torch.no_grad()
def advance(block: nn.Module, states: States, calls: Sequence[Call]) -> None:
    """Send every batch through a block."""
    for index, call in enumerate(calls):
        states.write(index, run_block(block, states.read(index), call))


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
