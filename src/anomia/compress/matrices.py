"""The weight matrices of a decoder block that are compressed, found by inspecting its modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.computed import check_own, computed
from anomia.compress.kept import kept_names
from anomia.compress.routers import experts_of, is_choice
from anomia.compress.shared import check_alone, shared_names
from anomia.compress.stacks import Fold, fold, is_layer, is_unread, orientation, stacked, stacks
from anomia.errors import RefusedError

# A matrix with few weights has at most this many, and at most this share of those of the largest layer in its block.
_FEW, _FEW_SHARE = 64, 1 / 16


class WeightMatrix(NamedTuple):
    """One weight matrix of a block.

    name: path in the block, followed by `[index]` for an expert's slice of a fused parameter.
    weight: [out, in], a view: writing to it changes the model.
    """

    name: str
    weight: torch.Tensor


class FusedExperts(NamedTuple):
    """A parameter that holds several matrices, one per expert or head.

    parameter: the whole. stack: a view of it, [E, out, in], or [E, in, out] if `transposed`. fold: if it holds a single
    matrix instead.
    """

    name: str
    parameter: nn.Parameter
    stack: torch.Tensor
    transposed: bool = False
    fold: Fold | None = None

    def matrices(self) -> list[WeightMatrix]:
        """Return one [out, in] view per matrix."""
        if self.fold is not None:
            return [WeightMatrix(self.name, self.fold.of(self.parameter.data))]
        slices = (part.T if self.transposed else part for part in self.stack)
        return [WeightMatrix(f"{self.name}[{index}]", part) for index, part in enumerate(slices)]


def find_matrices(block: nn.Module, *, where: str) -> list[WeightMatrix]:
    """Return every `Linear` and `Conv1D` of a block as an [out, in] view, in the block's order, without routers.

    Raises `CompressionError` for weights that are already quantized, computed from other tensors, or also used outside
    the blocks.
    """
    matrices = []
    for name, module in compressed_layers(block):
        check_own(module, "weight", where=f"{where}.{name}")
        check_alone(block, f"{name}.weight", where=where)
        weight = module.weight
        if not weight.is_floating_point() or weight.dim() != 2 or type(weight.data) is not torch.Tensor:
            raise RefusedError(
                f"{where}.{name} is stored as {weight.dtype} ({type(weight).__name__}): an already"
                " quantized model can't be pruned; start from its dense checkpoint"
            )
        matrices.append(WeightMatrix(name, weight.data.T if isinstance(module, Conv1D) else weight.data))
    return matrices


def compressed_layers(block: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield a block's layers to compress: all but routers, layers that gate a whole expert, and those kept dense."""
    for name, module in _layers(block):
        if name not in kept_names(block):
            yield name, module


def _layers(block: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the layers that can be compressed."""
    experts = experts_of(block)
    shared = shared_names(block)
    for name, module in block.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or f"{name}.weight" in shared:
            continue
        if not has_few_weights(module, block) and not is_choice(block, name, module, experts):
            yield name, module


def has_few_weights(layer: nn.Linear | Conv1D, block: nn.Module) -> bool:
    """Whether a layer's matrix is so small that compressing it saves nothing (what mixes Gemma 3n's four streams).

    Groups of inputs wouldn't fit it either. llama.cpp leaves these matrices dense, too.
    """
    own = layer.weight.numel()
    return own <= _FEW and own <= _FEW_SHARE * max(
        part.weight.numel() for part in block.modules() if isinstance(part, nn.Linear | Conv1D)
    )


def find_fused_experts(block: nn.Module, *, where: str) -> list[FusedExperts]:
    """Find parameters that hold one matrix per expert or head, [E, out, in] or [E, in, out].

    Examples are `experts.gate_up_proj` of Mixtral and Qwen3-MoE. A parameter may also hold a single matrix in three
    dimensions (XLNet).

    Raises `CompressionError` for a stack of matrices whose orientation is neither declared by `transformers` nor seen
    in the trial pass, and as `find_matrices` does.
    """
    found = []
    for path, module in block.named_modules():
        for name in () if is_layer(module) else computed(module):
            if getattr(module, name).dim() >= 3:
                check_own(module, name, where=f"{where}.{path}")
    for path, module, name, parameter in stacks(block):
        full = f"{path}.{name}" if path else name
        if full in kept_names(block):
            continue
        transposed, folded = orientation(module, name, parameter), fold(module, name)
        if transposed is None and folded is None:
            if is_unread(module, name):
                continue
            told = f"{len(parameter)} matrices" if parameter.dim() == 3 else "matrices, one below the other,"
            raise RefusedError(
                f"{where}.{full} ({type(module).__name__}) is a stack of {told}"
                f" of {parameter.dtype} that can't be pruned one by one, and it is not silently left dense"
            )
        if not parameter.is_floating_point():
            raise RefusedError(
                f"{where}.{full} is stored as {parameter.dtype}: an already quantized model can't be pruned; "
                "start from its dense checkpoint"
            )
        check_alone(block, full, where=where)
        stack = stacked(module, name, parameter.data)
        found.append(FusedExperts(full, parameter, stack, bool(transposed), folded))
    return found


def layer_of(block: nn.Module, name: str) -> nn.Module | None:
    """Return the layer that a matrix is the weight of; None for a part of a parameter that belongs to no layer."""
    if name.endswith("]"):
        return None
    owner, _, own = name.rpartition(".")
    found = getattr(block.get_submodule(owner), own)
    return found if isinstance(found, nn.Module) else None


def all_matrices(block: nn.Module, where: str) -> list[WeightMatrix]:
    """Return every matrix of a block that is compressed, with one entry per expert of a fused parameter."""
    matrices = find_matrices(block, where=where)
    for fused in find_fused_experts(block, where=where):
        matrices += fused.matrices()
    return matrices


def matrix_names(decoder: DecoderBlocks) -> list[str]:
    """Return the names, in the model, of the blocks' layers and stacks that can be compressed or are kept dense."""
    return [
        f"{decoder.path(index)}.{name}"
        for index, block in enumerate(decoder.modules)
        for name in (
            *(name for name, _ in _layers(block)),
            *(f"{path}.{name}" if path else name for path, _, name, _ in stacks(block)),
        )
    ]


def kept_weights(decoder: DecoderBlocks) -> int:
    """Count the weights in matrices of the blocks that stay dense on request."""
    return sum(
        weight.numel()
        for block in decoder.modules
        for name, weight in (
            *((name, module.weight) for name, module in _layers(block)),
            *((f"{path}.{name}" if path else name, weight) for path, _, name, weight in stacks(block)),
        )
        if name in kept_names(block)
    )


def block_weights(decoder: DecoderBlocks) -> int:
    """Count the weights in the matrices of all blocks."""
    return sum(
        matrix.weight.numel()
        for index, block in enumerate(decoder.modules)
        for matrix in all_matrices(block, decoder.path(index))
    )
