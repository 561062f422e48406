"""Record how a model calls its decoder blocks, and run a block in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from anomia.compress.blocks import DecoderBlocks
from anomia.errors import CompressionError, RefusedError
from anomia.models.sizes import positions_of


class Call(NamedTuple):
    """The arguments of a block besides the hidden states (masks, position embeddings, …).

    skipped: the model doesn't call the block (a cross-attention block for images when there is no image).
    whole: runs a forward pass of the whole model, if the block can't be run by itself.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    skipped: bool = False
    whole: Callable[[], Any] | None = None


class _RecordedError(Exception):
    """Raised to end a forward pass once the calls of all blocks are known."""


@torch.no_grad()
def record_calls(
    model: nn.Module, decoder: DecoderBlocks, input_ids: torch.Tensor
) -> tuple[torch.Tensor, list[Call]]:
    """Record how the model calls each block on `input_ids` [B, S], at the cost of one block.

    Only the first block runs; every block returns its input, and the model's own code computes the masks and position
    embeddings. Returns the input of the first block, [B, S, H], and one call per block.

    Raises `CompressionError` if the model doesn't call its blocks once each and in order, or if a token id or a text's
    length is out of range.
    """
    check_tokens(model, input_ids)
    calls: dict[int, Call] = {}
    entered: list[torch.Tensor] = []
    shape: list[Callable[[torch.Tensor], Any]] = []
    beside: list[torch.Tensor] = []
    last = len(decoder.modules) - 1

    def recorder(index: int, block: nn.Module) -> Callable[..., Any]:
        """The forward that replaces a block's: it records the call and hands on hidden states [B, S, H]."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            """Hidden states [B, S, H], in the form in which the first block returns them."""
            if calls and index <= max(calls):
                raise RefusedError(
                    f"{type(model).__name__} doesn't call the blocks {decoder.name} once each and one after another"
                )
            hidden = args[0] if args else kwargs.pop("hidden_states")
            if any(given is one for given in (*args[1:], *kwargs.values()) for one in beside):
                raise RefusedError(
                    f"the blocks {decoder.name} of {type(model).__name__} hand each other more than hidden states"
                )
            if not entered:
                entered.append(hidden)
                out = type(block).forward(block, hidden, *args[1:], **kwargs)
                shape.append((lambda h: h) if torch.is_tensor(out) else (lambda h: (h, *out[1:])))
                beside.extend(() if torch.is_tensor(out) else filter(torch.is_tensor, out[1:]))
            calls[index] = Call(args[1:], kwargs)
            if index == last:
                raise _RecordedError
            return shape[0](hidden)

        return forward

    with _replaced_forwards(decoder, recorder), suppress(_RecordedError):
        try:
            model(input_ids=input_ids, use_cache=False)
        except (_RecordedError, CompressionError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            limit = positions_of(getattr(model, "config", None))
            if limit is not None and input_ids.shape[1] > limit:
                raise _too_long(model, input_ids.shape[1], limit) from error
            if types := _types(decoder.modules[0], entered):
                raise _mixed_types(types) from error
            raise RefusedError(
                f"the blocks {decoder.name} of {type(model).__name__} can't be run by themselves "
                f"({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            ) from error
    if not calls:
        raise RefusedError(f"{type(model).__name__} doesn't call the blocks {decoder.name} on a text")
    return entered[0], [calls.get(index, Call((), {}, skipped=True)) for index in range(last + 1)]


@torch.no_grad()
def finish_pass(
    model: nn.Module, decoder: DecoderBlocks, input_ids: torch.Tensor, left: torch.Tensor
) -> torch.Tensor:
    """Return the logits, [B, S, V], of a pass in which the blocks leave the states `left`, [B, S, H].

    input_ids: [B, S], the tokens of the pass. Only the first block runs, to see in what form blocks return their
    states; the weights of the others aren't read. What follows the blocks is the model's own code.
    """
    form: list[Any] = []
    last = len(decoder.modules) - 1

    def replaced(index: int, block: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not form:
                form.append(type(block).forward(block, *args, **kwargs))
            hidden = args[0] if args else kwargs["hidden_states"]
            hidden = left.to(hidden) if index == last else hidden
            return hidden if torch.is_tensor(form[0]) else (hidden, *form[0][1:])

        return forward

    with _replaced_forwards(decoder, replaced):
        logits: torch.Tensor = model(input_ids=input_ids, use_cache=False).logits
    return logits


def check_tokens(model: nn.Module, input_ids: torch.Tensor) -> None:
    """Refuse token ids without an embedding, and texts longer than a position embedding table. input_ids: [B, S].

    On a GPU, an index past the end of a table kills the process.
    """
    table = (
        getattr(model.get_input_embeddings(), "weight", None) if isinstance(model, PreTrainedModel) else None
    )
    lowest, highest = (int(input_ids.min()), int(input_ids.max())) if input_ids.numel() else (0, 0)
    if isinstance(table, torch.Tensor) and (lowest < 0 or highest >= len(table)):
        raise RefusedError(
            f"the tokenizer gives the id {lowest if lowest < 0 else highest:,} on the calibration text, and "
            f"{type(model).__name__} has embeddings for {len(table):,} tokens; use the tokenizer that the "
            "model was trained with"
        )
    for table in _position_tables(model):
        if input_ids.shape[1] > table.num_embeddings:
            raise _too_long(model, input_ids.shape[1], table.num_embeddings)


def text_limit(model: nn.Module) -> int | None:
    """Return the longest text that a model takes, in tokens; None if there is no limit.

    The limit is the smaller of `max_position_embeddings` and the usable rows of the position embedding tables. In some
    tables (RoBERTa) positions start after the row of the padding token.
    """
    limit = positions_of(getattr(model, "config", None))
    limits = [limit] if limit is not None and limit > 1 else []
    for table in _position_tables(model):
        first = 0 if table.padding_idx is None else table.padding_idx + 1
        limits.append(table.num_embeddings - first)
    return min(limits, default=None)


def _position_tables(model: nn.Module) -> Iterator[nn.Embedding]:
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("pos" in last or last == "wpe"):
            yield module


def _too_long(model: nn.Module, length: int, limit: int) -> RefusedError:
    return RefusedError(
        f"a calibration text has {length:,} tokens, and {type(model).__name__} has {limit:,} positions; cut "
        f"texts there (--calibration-tokens {limit}, or tokens={limit} in the step)"
    )


@contextmanager
def _replaced_forwards(
    decoder: DecoderBlocks, recorder: Callable[[int, nn.Module], Callable[..., Any]]
) -> Iterator[None]:
    own = [block.__dict__.get("forward") for block in decoder.modules]
    try:
        for index, block in enumerate(decoder.modules):
            block.__dict__["forward"] = recorder(index, block)
        yield
    finally:
        for block, forward in zip(decoder.modules, own, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.__dict__["forward"] = forward


def run_block(block: Callable[..., Any], hidden: torch.Tensor, call: Call) -> torch.Tensor:
    """Run one block on hidden states [B, S, H], called as the model calls it; returns [B, S, H].

    Raises `CompressionError` if the weights have several floating-point types that can't be multiplied.
    """
    if call.whole is not None:
        call.whole()
        return hidden
    if call.skipped:
        return hidden
    try:
        out = block(hidden, *call.args, **call.kwargs)
    except RuntimeError as error:
        types = _types(block, [hidden]) if isinstance(block, nn.Module) else []
        if not types or isinstance(error, torch.OutOfMemoryError):
            raise
        raise _mixed_types(types) from error
    result: torch.Tensor = out if torch.is_tensor(out) else out[0]
    return result


def _types(block: nn.Module, states: Sequence[torch.Tensor]) -> list[str]:
    """Return the floating-point types of a block's matrices and input states; empty if there is only one."""
    values = [*states, *(p for p in block.parameters() if p.dim() >= 2)]
    types = {str(v.dtype).removeprefix("torch.") for v in values if v.is_floating_point()}
    return sorted(types) if len(types) > 1 else []


def _mixed_types(types: Sequence[str]) -> RefusedError:
    wide = "float32" if "float32" in types or {"bfloat16", "float16"} <= set(types) else types[0]
    return RefusedError(
        f"the weights are stored in several types ({', '.join(types)}) that can't be multiplied with each "
        f"other; name one for all of them (--dtype {wide})"
    )


class Interner:
    """Keeps one copy of equal tensors, since masks and position embeddings repeat in every batch."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], list[torch.Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        """Return the value with each tensor in it replaced by the stored equal tensor."""
        if torch.is_tensor(value):
            kept = self._kept.setdefault((value.dtype, value.device, *value.shape), [])
            for tensor in kept:
                if tensor is value or torch.equal(tensor, value):
                    return tensor
            kept.append(value)
            return value
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(map(self, value))
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        return value
