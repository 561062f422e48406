"""The weights that stay dense, each with the reason."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.blocks import DecoderBlocks, is_other_model
from anomia.compress.kept import kept_names
from anomia.compress.matrices import compressed_layers, find_fused_experts, has_few_weights
from anomia.compress.report import MatrixReport
from anomia.compress.routers import experts_of, is_choice, is_inside
from anomia.compress.shared import key_of
from anomia.compress.stacks import is_whole, orientation
from anomia.models.tensors import file_names

# Why a weight of two or more dimensions stays dense.
EMBEDDING = "embedding"
HEAD = "output head"
ROUTER = "router or gate"
FEW = "matrix of at most 64 weights"
CONVOLUTION = "convolution"
NORM = "norm"
BIAS = "bias"
BARE = "parameter that is no layer (decay, mixing, scale)"
LOOSE = "matrix that is a parameter of no layer"
OTHER_MODEL = "part with a configuration of its own (vision, audio)"
OUTSIDE = "outside the blocks"
KEPT = "kept dense on request"
MUCH = 0.1
"""Share of a model's blocks that may stay dense as bare parameters without a warning."""
REASONS = (EMBEDDING, HEAD, ROUTER, FEW, CONVOLUTION, NORM, BIAS, BARE, LOOSE, OTHER_MODEL, OUTSIDE, KEPT)


def dense_in_files(
    model: nn.Module, decoder: DecoderBlocks, *, places: Mapping[str, str] = {}, tied: Container[str] = ()
) -> dict[str, str]:
    """Return what `why_dense` does, under the names in the model's files, for reports.

    places: stored names by the names in the model, where they are known. tied: weights to leave out.
    """
    why = {name: reason for name, reason in why_dense(model, decoder).items() if name not in tied}
    stored = file_names(model, why, places)
    return {place: reason for name, reason in why.items() for place in stored[name]}


def not_rounded(
    model: nn.Module, tables: Iterable[MatrixReport], *, places: Mapping[str, str] = {}
) -> tuple[str, ...]:
    """Return the weights of two or more dimensions that aren't token tables, by their names in files.

    tables: reports of the rounded tables. places: as in `dense_in_files`.
    """
    rounded = {table.name for table in tables}
    left = [name for name, p in model.named_parameters() if p.dim() >= 2 and name not in rounded]
    return tuple(place for stored in file_names(model, left, places).values() for place in stored)


def why_dense(model: nn.Module, decoder: DecoderBlocks) -> dict[str, str]:
    """Return the weights of two or more dimensions that stay dense, each with its reason (one of `REASONS`)."""
    pruned = set()
    for index, block in enumerate(decoder.modules):
        pruned |= {key_of(module.weight) for _, module in compressed_layers(block)}
        pruned |= {key_of(fused.parameter) for fused in find_fused_experts(block, where=decoder.path(index))}
    return {
        name: _why(model, decoder, name, p)
        for name, p in _named_as_stored(model)
        if p.dim() >= 2 and key_of(p) not in pruned
    }


def _named_as_stored(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return each parameter once; if it is tied, with the name that transformers stores."""
    tied = getattr(model, "all_tied_weights_keys", {})
    names: dict[Any, tuple[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        key = key_of(parameter)
        if key not in names or (names[key][0] in tied and name not in tied):
            names[key] = (name, parameter)
    return list(names.values())


def note_on_bare(model: nn.Module, decoder: DecoderBlocks, *, places: Mapping[str, str] = {}) -> str:
    """Return a note if parameters that belong to no layer hold much of the blocks' weights; else "".

    places: as in `dense_in_files`.
    """
    why = why_dense(model, decoder)
    bare = {name: p.numel() for name, p in model.named_parameters() if why.get(name) in (BARE, LOOSE)}
    inside = sum(p.numel() for block in decoder.modules for p in block.parameters() if p.dim() >= 2)
    if not inside or sum(bare.values()) <= MUCH * inside:
        return ""
    largest = max(bare, key=lambda name: bare[name])
    (stored, *_) = file_names(model, [largest], places)[largest]
    return (
        f"{sum(bare.values()) / inside:.0%} of the weights in the blocks stay dense: they are stored as "
        f"parameters that belong to no layer ({stored}, …)"
    )


def _why(model: Any, decoder: DecoderBlocks, name: str, parameter: torch.Tensor) -> str:
    """Return the reason (one of `REASONS`) why a weight of two or more dimensions stays dense.

    parameter: only its number of rows is read; a router's has the shape [experts, ...].
    """
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    kind = type(owner).__name__.lower()
    block = next((i for i in range(len(decoder.modules)) if name.startswith(f"{decoder.path(i)}.")), None)
    if leaf.endswith("bias"):
        return BIAS
    if isinstance(owner, nn.Conv1d | nn.Conv2d | nn.Conv3d) or "conv" in kind.removeprefix("conv1d"):
        return CONVOLUTION
    if "norm" in kind and not isinstance(owner, nn.Embedding):
        return NORM
    if block is not None:
        inside = decoder.modules[block]
        below = name.removeprefix(f"{decoder.path(block)}.")
        if below.removesuffix(".weight") in kept_names(inside):
            return KEPT
        layer = below.removesuffix(".weight")
        if isinstance(owner, nn.Linear | Conv1D):
            choice = is_choice(inside, layer, owner, experts_of(inside))
            return FEW if has_few_weights(owner, inside) and not choice else ROUTER
        if _is_router_weight(inside, below, parameter):
            return ROUTER
        if isinstance(owner, nn.Embedding) or leaf.endswith("embed"):
            return EMBEDDING
        return LOOSE if is_whole(owner, leaf) else BARE
    above = [part for part, module in model.named_modules() if part and is_other_model(model, module)]
    if any(name.startswith(f"{part}.") for part in above):
        return OTHER_MODEL
    if isinstance(owner, nn.Embedding) or "embed" in kind:
        return EMBEDDING
    in_base = model.base_model is not model and name.startswith(f"{model.base_model_prefix}.")
    if owner is model.get_output_embeddings() or not in_base:
        return HEAD
    # A layer that maps embeddings is none.
    is_table = "embed" in path.rpartition(".")[2] and not isinstance(owner, nn.Linear | Conv1D)
    return EMBEDDING if is_table else OUTSIDE


def _is_router_weight(block: nn.Module, name: str, parameter: torch.Tensor) -> bool:
    """Whether a parameter outside of a layer is a router's, by its shape [experts, ...] or else by its name."""
    path = name.rpartition(".")[0]
    if any(orientation(block.get_submodule(path), n, p) is not None for n, p in _own_parameters(block, path)):
        # A state in the same module as a stack of matrices that it multiplies (Zamba's Mamba heads).
        return False
    among = any(
        outer
        and len(parameter) == count
        and name.startswith(f"{outer}.")
        and not is_inside(block, name, outer)
        for outer, count in experts_of(block).items()
    )
    return among or any("router" in part or part == "gate" for part in path.split("."))


def _own_parameters(block: nn.Module, path: str) -> list[tuple[str, nn.Parameter]]:
    return list(block.get_submodule(path).named_parameters(recurse=False))
