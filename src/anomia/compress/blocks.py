"""The decoder blocks of a model and their weight matrices, found by looking, not by a table of names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.errors import CompressionError


class DecoderBlocks(NamedTuple):
    """The repeated blocks of a decoder. name: their path in the model, such as `model.layers`."""

    name: str
    modules: tuple[nn.Module, ...]


class Matrix(NamedTuple):
    """One weight matrix of a block.

    name: path in the block, `[index]` behind it for an expert's slice of a fused parameter.
    weight: [out, in], a view: what is written into it is written into the model.
    """

    name: str
    weight: torch.Tensor


class FusedExperts(NamedTuple):
    """A parameter that holds one matrix for each expert.

    parameter: [E, out, in], or [E, in, out] where `transposed`.
    """

    name: str
    parameter: nn.Parameter
    transposed: bool

    def matrices(self) -> list[Matrix]:
        """One [out, in] view an expert."""
        slices = (part.T if self.transposed else part for part in self.parameter.data)
        return [Matrix(f"{self.name}[{index}]", part) for index, part in enumerate(slices)]


class Call(NamedTuple):
    """How the model calls a block, apart from the hidden states (masks, position embeddings, …)."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _RecordedError(Exception):
    """Ends a forward pass once every block's call is known."""


def find_blocks(model: nn.Module) -> DecoderBlocks:
    """The decoder blocks: the `ModuleList` with the most parameters whose members hold linear layers.

    Nested lists (experts) have fewer parameters than the blocks around them; the vision or audio tower
    of a multimodal model is left aside when the model names its text decoder.

    Raises `CompressionError` for a model that is not built from repeated blocks.
    """
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else None
    root = decoder if isinstance(decoder, nn.Module) else model
    prefix = next((name for name, module in model.named_modules() if module is root), "")
    best: tuple[int, str, nn.ModuleList] | None = None
    for name, module in root.named_modules(prefix=prefix):
        if isinstance(module, nn.ModuleList) and len(module) > 0 and all(map(_has_linear, module)):
            size = sum(parameter.numel() for parameter in module.parameters())
            if best is None or size > best[0]:
                best = (size, name, module)
    if best is None:
        raise CompressionError(
            f"{type(model).__name__} has no list of decoder blocks with linear layers; it can't be pruned"
        )
    return DecoderBlocks(best[1], tuple(best[2]))


def find_matrices(block: nn.Module, *, where: str) -> list[Matrix]:
    """Every `Linear` and `Conv1D` of a block as an [out, in] view, in the block's own order, without routers.

    Raises `CompressionError` for weights that are already quantized.
    """
    matrices = []
    for name, module in _layers(block):
        weight = module.weight
        if not weight.is_floating_point() or weight.dim() != 2 or type(weight.data) is not torch.Tensor:
            raise CompressionError(
                f"{where}.{name} is stored as {weight.dtype} ({type(weight).__name__}): an already"
                " quantized model can't be pruned; start from its dense checkpoint"
            )
        matrices.append(Matrix(name, weight.data.T if isinstance(module, Conv1D) else weight.data))
    return matrices


def _layers(block: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers of a block whose weights are compressed: all but what selects among experts, or gates a whole one."""
    experts = {name: count for name, module in block.named_modules() if (count := _experts_in(module))}
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and not _selects(name, module, experts):
            yield name, module


def _selects(name: str, module: Any, experts: Mapping[str, int]) -> bool:
    """Whether a layer's output is a choice and no state: one number, or one for each expert beside it.

    experts: how many there are, by the path of the module that holds them. Where they stand in the block itself, or the
    choice is not among experts, the name tells: `router`.
    """
    rows = int(module.weight.shape[1 if isinstance(module, Conv1D) else 0])
    if rows == 1 or any("router" in part for part in name.split(".")):
        return True
    return any(
        path and rows == count and name.startswith(f"{path}.") and not _is_inside(name, path)
        for path, count in experts.items()
    )


def _is_inside(name: str, path: str) -> bool:
    """Whether a layer is a part of an expert: below a number, as in `mlp.experts.3.up_proj`."""
    return any(part.isdigit() for part in name[len(path) + 1 :].split("."))


def _experts_in(module: nn.Module) -> int:
    """How many experts a module holds as children or grandchildren: a list of them, or fused parameters; 0 for none."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1 and all(map(_has_linear, child)):
            return len(child)
        fused = [p for p in child.parameters(recurse=False) if p.dim() == 3 and min(p.shape) > 1]
        if fused and isinstance(getattr(child, "is_transposed", None), bool):
            return len(fused[0])
    return 0


def find_fused_experts(block: nn.Module, *, where: str) -> list[FusedExperts]:
    """Parameters that hold one matrix for each expert (`experts.gate_up_proj` of Mixtral and Qwen3-MoE).

    Raises `CompressionError` for a stack of matrices that `transformers` doesn't declare as experts.
    """
    found = []
    for path, module in block.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() != 3 or min(parameter.shape) == 1:
                continue
            transposed = getattr(module, "is_transposed", None)
            if not isinstance(transposed, bool) or not parameter.is_floating_point():
                raise CompressionError(
                    f"{where}.{path}.{name} ({type(module).__name__}) is a stack of {len(parameter)} matrices"
                    f" of {parameter.dtype} that can't be pruned one by one; it is not left dense in silence"
                )
            found.append(FusedExperts(f"{path}.{name}", parameter, transposed))
    return found


def all_matrices(block: nn.Module, where: str) -> list[Matrix]:
    """Every matrix of a block that pruning touches, an expert's slices one by one."""
    matrices = find_matrices(block, where=where)
    for fused in find_fused_experts(block, where=where):
        matrices += fused.matrices()
    return matrices


def left_dense(model: nn.Module, decoder: DecoderBlocks) -> list[str]:
    """Names of the weights of two or more dimensions that pruning doesn't touch, for the report."""
    pruned = set()
    for block in decoder.modules:
        pruned |= {id(module.weight) for _, module in _layers(block)}
        pruned |= {id(fused.parameter) for fused in find_fused_experts(block, where=decoder.name)}
    return [name for name, p in model.named_parameters() if p.dim() >= 2 and id(p) not in pruned]


@torch.no_grad()
def record_calls(
    model: nn.Module, decoder: DecoderBlocks, input_ids: torch.Tensor
) -> tuple[torch.Tensor, list[Call]]:
    """How the model calls each block on `input_ids` [B, S], at the cost of one block.

    The blocks pass their input through while the model's own code computes masks and position
    embeddings for each. Returns what enters the first block, [B, S, H], and one call a block.
    """
    calls: list[Call] = []
    entered: list[torch.Tensor] = []
    shape: list[Callable[[torch.Tensor], Any]] = []

    def recorder(block: nn.Module, is_last: bool) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs.pop("hidden_states")
            if not entered:
                entered.append(hidden)
                out = type(block).forward(block, hidden, *args[1:], **kwargs)
                shape.append((lambda h: h) if torch.is_tensor(out) else (lambda h: (h, *out[1:])))
            calls.append(Call(args[1:], kwargs))
            if is_last:
                raise _RecordedError
            return shape[0](hidden)

        return forward

    with _replaced_forwards(decoder, recorder):
        try:
            model(input_ids=input_ids, use_cache=False)
        except _RecordedError:
            return entered[0], calls
    raise CompressionError(
        f"{type(model).__name__} doesn't call the blocks {decoder.name} one after another; it can't be pruned"
    )


@contextmanager
def _replaced_forwards(
    decoder: DecoderBlocks, recorder: Callable[[nn.Module, bool], Callable[..., Any]]
) -> Iterator[None]:
    own = [block.__dict__.get("forward") for block in decoder.modules]
    last = len(decoder.modules) - 1
    try:
        for index, block in enumerate(decoder.modules):
            block.__dict__["forward"] = recorder(block, index == last)
        yield
    finally:
        for block, forward in zip(decoder.modules, own, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.__dict__["forward"] = forward


def run_block(block: nn.Module, hidden: torch.Tensor, call: Call) -> torch.Tensor:
    """One block on hidden states [B, S, H], called as the model calls it."""
    out = block(hidden, *call.args, **call.kwargs)
    result: torch.Tensor = out if torch.is_tensor(out) else out[0]
    return result


class Interner:
    """Keeps one copy of equal tensors: the same masks and position embeddings come with every batch."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], list[torch.Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        """The value with every tensor in it replaced by the kept equal one."""
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


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(child, nn.Linear | Conv1D) for child in module.modules())
