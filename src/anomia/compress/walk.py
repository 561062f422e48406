"""The walk over the decoder blocks: the input states of each, and the step to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from anomia.compress.attention import implementations_kept, strips_where_faster
from anomia.compress.blocks import DecoderBlocks, find_blocks
from anomia.compress.calibration import Batch, Windows, make_batches
from anomia.compress.calls import Call, Interner, check_tokens, record_calls, run_block
from anomia.compress.options import BATCH_TOKENS
from anomia.compress.routers import has_experts
from anomia.compress.shards import check_weights
from anomia.compress.shared import shares_matrices
from anomia.compress.statistics import StatisticNeeds
from anomia.errors import CompressionError, RefusedError
from anomia.models.shrunk import VOCABULARY, NotBuiltError, tiny_model

_CHECKED_TOKENS = 32


class States(Protocol):
    """The hidden states of every batch at the input of block `at`; in memory or on disk."""

    at: int

    def read(self, batch: int) -> torch.Tensor:
        """Return the input of the block for a batch, [B, S, H]."""
        ...

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """Store the output of the block for a batch, [B, S, H]."""
        ...

    def remove(self) -> None:
        """Free the memory or disk space."""
        ...


class MemoryStates:
    """Hidden states in memory; a block's output overwrites its input."""

    def __init__(self) -> None:
        self.at = 0
        self._states: list[torch.Tensor] = []

    def keep(self, batch: int, hidden: torch.Tensor) -> None:
        """Append the input of the first block for the next batch, [B, S, H]."""
        self._states.append(hidden)

    def read(self, batch: int) -> torch.Tensor:
        """Return the input of the block for a batch, [B, S, H]."""
        return self._states[batch]

    def write(self, batch: int, hidden: torch.Tensor) -> None:
        """Store the output of the block for a batch, [B, S, H]."""
        self._states[batch].copy_(hidden)

    def remove(self) -> None:
        """Free all states."""
        self._states.clear()


def make_model_batches(
    decoder: DecoderBlocks, windows: Windows, needs: StatisticNeeds, *, batch_tokens: int = BATCH_TOKENS
) -> list[Batch]:
    """Make batches that suit the model: without padding for a mixture of experts, which would route padding too.

    The default is small because a batch is fastest on a CPU if its activations fit into the cache.
    """
    padded = decoder.padded and not any(map(has_experts, decoder.modules))
    return make_batches(windows, batch_tokens=batch_tokens, padded=padded, by_language=needs.languages)


def enter(
    model: nn.Module,
    decoder: DecoderBlocks,
    batches: Sequence[Batch],
    keep: Callable[[int, torch.Tensor], None],
) -> list[list[Call]]:
    """Record the calls of all blocks, by block and batch; `keep` gets each batch's input of the first block, [B, S, H].

    For a decoder with a `fault`, the calls run the whole model on ids [B, S], and `keep` gets a placeholder, [1].
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
    """Check with `try_walk` that the blocks can be run one after the other, with padding after texts.

    Raises `CompressionError` if they can't.
    """
    tried = try_walk(model, decoder, batch)
    if tried.fault or not tried.padded:
        raise RefusedError(
            f"{tried.fault or f'{type(model).__name__} lets a token see later ones'}; its blocks can't be "
            "worked on one by one"
        )


def try_walk(model: nn.Module, decoder: DecoderBlocks, batch: Batch) -> DecoderBlocks:
    """Test on a few tokens whether the blocks can be run one by one, and whether later tokens change earlier states.

    Returns the decoder with `fault` set if a block depends on more than its inputs (caches or states shared between
    blocks, blocks called more than once), and `padded` set if padding changes nothing. Without this test the statistics
    could be silently wrong.
    """
    return _try(model, decoder, batch.input_ids[:1, :_CHECKED_TOKENS].to(next(model.parameters()).device))


@torch.no_grad()
def check_states(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> None:
    """Refuse states that are NaN or infinite, and name a weight that is, if there is one. ids: a few tokens, [B, S]."""
    for index, states in enumerate(_leaving(model, decoder, ids)):
        broken = int((~torch.isfinite(states)).sum())
        if not broken:
            continue
        check_weights(model.state_dict())
        where = decoder.path(index) if index < len(decoder.modules) else f"the blocks {decoder.name}"
        raise RefusedError(
            f"the states that leave {where} are NaN or infinite in {broken:,} of {states.numel():,} values, so nothing "
            f"can be chosen by them; {next(model.parameters()).dtype} is too narrow for this model: load it in a wider "
            "type (--dtype bfloat16 or float32)"
        )


@torch.no_grad()
def _try(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> DecoderBlocks:
    """Run `try_walk` on ids [1, S]: compare the states [1, S, H] of a whole pass and of the blocks run one by one."""
    parts = sorted({max(1, ids.shape[1] * quarters // 4) for quarters in (1, 2, 3)})
    try:
        expected = _leaving(model, decoder, ids)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        types = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
        mixed = (
            f"; its weights are of the types {', '.join(sorted(types))}: load them in one"
            if len(types) > 1
            else ""
        )
        raise RefusedError(
            f"{type(model).__name__} fails in its own forward pass ({error}){mixed}"
        ) from error
    # Texts of unequal length never run together in a mixture of experts.
    padded = any(map(has_experts, decoder.modules)) or all(
        _begins_alike(_leaving(model, decoder, ids[:, :part]), expected, part) for part in parts
    )
    try:
        if any(map(shares_matrices, decoder.modules)):
            raise RefusedError(f"the blocks {decoder.name} of {type(model).__name__} share matrices")
        if len(expected) > len(decoder.modules):
            raise RefusedError(
                f"{type(model).__name__} calls blocks of {decoder.name} more than once for a text"
            )
        hidden, calls = record_calls(model, decoder, ids)
        padded = padded and hidden.dim() > 2 and hidden.shape[-2] == ids.shape[1]
        called = iter(expected)
        # Run a second text in between, so that any state left behind for a later block is from the wrong text.
        other, other_calls = record_calls(model, decoder, ids.flip(1))
        for block, call, another in zip(decoder.modules, calls, other_calls, strict=True):
            hidden = run_block(block, hidden, call)
            other = run_block(block, other, another)
            if not call.skipped and not _alike(hidden, next(called)):
                raise RefusedError(
                    f"the blocks {decoder.name} of {type(model).__name__} depend on more than their inputs; "
                    "run one after the other they give other states than the whole model"
                )
    except CompressionError as error:
        return decoder._replace(padded=padded, fault=str(error))
    return decoder._replace(padded=padded)


def _begins_alike(short: Sequence[torch.Tensor], long: Sequence[torch.Tensor], part: int) -> bool:
    """Whether the states of a text's first `part` tokens are those of the whole text: lists of [1, part or S, H].

    Their number differs where blocks are called once for each chunk of a text (xLSTM).
    """
    return len(short) == len(long) and all(
        _alike(one, other[..., :part, :]) for one, other in zip(short, long, strict=True)
    )


def try_walk_small(decoder: DecoderBlocks, config: Any) -> tuple[DecoderBlocks, str]:
    """Run `try_walk` on random tokens, [1, S], of a tiny model of the same architecture.

    For weights that aren't in memory.
    Returns the decoder with the result, and a note if no tiny model can be built.
    """
    try:
        model = tiny_model(config)
        small = find_blocks(model)
        known = min(VOCABULARY, model.get_input_embeddings().num_embeddings)
        ids = torch.randint(3, known, (1, 2 * _CHECKED_TOKENS), generator=torch.Generator().manual_seed(0))
        tried = _try(model, small, ids)
    except (NotBuiltError, CompressionError) as error:
        return (
            decoder,
            f"whether the blocks can be run one after the other wasn't tried on a small model ({error})",
        )
    fault = tried.fault.replace(small.name, decoder.name)
    return decoder._replace(padded=tried.padded, fault=fault), ""


def _leaving(model: nn.Module, decoder: DecoderBlocks, ids: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs of the blocks, [B, S, H] each in call order, in a pass of the model on ids [B, S]."""
    check_tokens(model, ids)
    left: list[torch.Tensor] = []

    def read(_: nn.Module, __: Any, out: Any) -> None:
        # Models may change the states in place afterwards.
        left.append((out if torch.is_tensor(out) else out[0]).clone())

    with ExitStack() as stack:
        for block in decoder.modules:
            stack.callback(block.register_forward_hook(read).remove)
        model(input_ids=ids, use_cache=False)
    return left


def _alike(states: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether two states differ only by rounding. Values that are NaN or infinite in both are ignored."""
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


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of activations instead of returning it to the system.

    glibc keeps freed buffers up to the size of the largest one freed so far (32 MiB at most). Without this, a fifth of
    the time of a walk goes into pages that are returned and cleared again.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


@contextmanager
def calibrating(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Use evaluation mode, attention in strips and eager experts while activations are observed.

    device: on which the blocks will run, if their weights aren't loaded yet.
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
