"""The walk over the decoder blocks: what enters each one, and the step from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from anomia.compress.attention import implementations_kept, strips_where_faster
from anomia.compress.blocks import (
    Call,
    DecoderBlocks,
    Interner,
    check_tokens,
    find_blocks,
    has_experts,
    record_calls,
    run_block,
    shares_matrices,
)
from anomia.compress.calibration import Batch, Windows, make_batches
from anomia.compress.options import BATCH_TOKENS
from anomia.compress.statistics import Needs
from anomia.errors import CompressionError, RefusedError
from anomia.models.shrunk import VOCABULARY, NotBuiltError, tiny_model

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
    padded = decoder.padded and not any(map(has_experts, decoder.modules))
    return make_batches(windows, batch_tokens=batch_tokens, padded=padded, by_language=needs.languages)


def enter(
    model: nn.Module,
    decoder: DecoderBlocks,
    batches: Sequence[Batch],
    keep: Callable[[int, torch.Tensor], None],
) -> list[list[Call]]:
    """How each block is called, by block and batch; `keep` gets what enters the first block in each batch, [B, S, H].

    Of a decoder with a fault the whole model is called instead, on ids [B, S], and `keep` gets a placeholder, [1].
    """
    intern = Interner()
    device = next(model.parameters()).device
    calls: list[list[Call]] = [[] for _ in decoder.modules]
    for index, batch in enumerate(batches):
        if decoder.fault:
            check_tokens(model, batch.input_ids)
            keep(index, torch.zeros(1))
            whole = partial(model, input_ids=batch.input_ids.to(device), use_cache=False)
            for mine in calls:
                mine.append(Call((), {}, whole=whole))
            continue
        hidden, recorded = record_calls(model, decoder, batch.input_ids.to(device))
        keep(index, hidden.detach().clone())
        for mine, call in zip(calls, recorded, strict=True):
            mine.append(call._replace(args=intern(call.args), kwargs=intern(dict(call.kwargs))))
    return calls


def check_walk(model: nn.Module, decoder: DecoderBlocks, batch: Batch) -> None:
    """See that the blocks can be run one after the other, with padding behind texts.

    Raises `CompressionError` where they can't, as `try_walk` finds.
    """
    tried = try_walk(model, decoder, batch)
    if tried.fault or not tried.padded:
        raise CompressionError(
            f"{tried.fault or f'{type(model).__name__} lets a token see later ones'}; its blocks can't be worked on one by one"
        )


def try_walk(model: nn.Module, decoder: DecoderBlocks, batch: Batch) -> DecoderBlocks:
    """Compare the blocks run one after the other with the model's own pass, and a text with parts of it, on a few tokens.

    Returns the decoder with what was found: `fault` where blocks depend on more than what enters them (caches or states
    shared between blocks, blocks that are called more than once), `padded` whether padding changes nothing. Else the
    statistics would be silently wrong.
    """
    return _try(model, decoder, batch.input_ids[:1, :_CHECKED_TOKENS].to(next(model.parameters()).device))


@torch.no_grad()
def check_states(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> None:
    """Refuses states that are NaN or infinite, and names a weight that is, if one is. ids: a few tokens, [B, S]."""
    for index, states in enumerate(_leaving(model, decoder, ids)):
        broken = int((~torch.isfinite(states)).sum())
        if not broken:
            continue
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise RefusedError(
                    f"{name} has {int((~torch.isfinite(parameter)).sum()):,} of {parameter.numel():,} values that are "
                    "NaN or infinite; the model is damaged, or needs a wider type (--dtype bfloat16 or float32)"
                )
        where = decoder.path(index) if index < len(decoder.modules) else f"the blocks {decoder.name}"
        raise RefusedError(
            f"the states that leave {where} are NaN or infinite in {broken:,} of {states.numel():,} values, so nothing "
            f"can be chosen by them; {next(model.parameters()).dtype} is too narrow for this model: load it in a wider "
            "type (--dtype bfloat16 or float32)"
        )


@torch.no_grad()
def _try(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> DecoderBlocks:
    """`try_walk` on ids [1, S]: the model's states [1, S, H] after each block, and those of the blocks run one by one."""
    parts = sorted({max(1, ids.shape[1] * quarters // 4) for quarters in (1, 2, 3)})
    expected = _leaving(model, decoder, ids)
    # Texts of unequal length never run together in a mixture of experts.
    padded = any(map(has_experts, decoder.modules)) or all(
        _alike(short, long[..., :part, :])
        for part in parts
        for short, long in zip(_leaving(model, decoder, ids[:, :part]), expected, strict=True)
    )
    try:
        if any(map(shares_matrices, decoder.modules)):
            raise CompressionError(f"the blocks {decoder.name} of {type(model).__name__} share matrices")
        if len(expected) > len(decoder.modules):
            raise CompressionError(
                f"{type(model).__name__} calls blocks of {decoder.name} more than once for a text"
            )
        hidden, calls = record_calls(model, decoder, ids)
        padded = padded and hidden.dim() > 2 and hidden.shape[-2] == ids.shape[1]
        called = iter(expected)
        # A second text goes between, so that what a block leaves behind for a later one is the wrong text's.
        other, other_calls = record_calls(model, decoder, ids.flip(1))
        for block, call, another in zip(decoder.modules, calls, other_calls, strict=True):
            hidden = run_block(block, hidden, call)
            other = run_block(block, other, another)
            if not call.skipped and not _alike(hidden, next(called)):
                raise CompressionError(
                    f"the blocks {decoder.name} of {type(model).__name__} depend on more than their inputs; run one after"
                    " the other they give other states than the whole model"
                )
    except CompressionError as error:
        return decoder._replace(padded=padded, fault=str(error))
    return decoder._replace(padded=padded)


def try_walk_small(decoder: DecoderBlocks, config: Any) -> tuple[DecoderBlocks, str]:
    """What `try_walk` finds of a tiny random model of the same architecture, for weights that aren't in memory.

    Returns the decoder with it, and a note where no tiny model can be built.
    """
    try:
        model = tiny_model(config)
        small = find_blocks(model)
        ids = torch.randint(
            3, VOCABULARY, (1, 2 * _CHECKED_TOKENS), generator=torch.Generator().manual_seed(0)
        )
        tried = _try(model, small, ids)
    except (NotBuiltError, CompressionError) as error:
        return (
            decoder,
            f"whether the blocks can be run one after the other wasn't tried on a small model ({error})",
        )
    fault = tried.fault.replace(small.name, decoder.name)
    return decoder._replace(padded=tried.padded, fault=fault), ""


def _leaving(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> list[torch.Tensor]:
    """What leaves each block in a pass of the model, in the order of its calls, [B, S, H] each."""
    check_tokens(model, ids)
    left: list[torch.Tensor] = []

    def read(_: nn.Module, __: Any, out: Any) -> None:
        # Models go on with some states in place.
        left.append((out if torch.is_tensor(out) else out[0]).clone())

    with ExitStack() as stack:
        for block in decoder.modules:
            stack.callback(block.register_forward_hook(read).remove)
        model(input_ids=ids, use_cache=False)
    return left


def _alike(states: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether two states differ by rounding alone. What is NaN or infinite in both tells nothing."""
    if states.shape != others.shape:
        return False
    finite = torch.isfinite(states)
    if not torch.equal(finite, torch.isfinite(others)):
        return False
    states, others = states.where(finite, 0), others.where(finite, 0)
    # Half precision has 8 or 11 bits; sums in another order lose a few of them.
    size = others.float().abs().amax().clamp(min=1e-6)
    allowed = (1e-3 if states.dtype == torch.float32 else 5e-2) * size
    difference = (states.float() - others.float()).abs()
    return bool((difference <= allowed).all())


@torch.no_grad()
def advance(block: nn.Module, states: States, calls: Sequence[Call]) -> None:
    """Send every batch through a block."""
    for index, call in enumerate(calls):
        if call.whole is None:
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
    experts = getattr(getattr(model, "config", None), "_experts_implementation", None)
    parts = [part for part in model.modules() if part.training]
    _keep_freed_memory()
    try:
        with implementations_kept(model):
            model.eval()
            if experts not in (None, "eager"):
                model.set_experts_implementation("eager")  # type: ignore[operator]
            with strips_where_faster(model, device):
                yield
    finally:
        for part in parts:
            part.training = True
