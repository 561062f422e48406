"""Which layers of a block choose (among experts, most often) instead of computing a state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.stacks import is_layer, orientation, stacked

MOST = 2
"""A layer that chooses experts has at most this many outputs per expert."""
# A layer that is only named a router has at most one output per this many inputs.
_FEW = 4
# Module attribute: what the trial pass saw, by parameter name.
_SEEN = "_anomia_choices"


class RouterVerdict(NamedTuple):
    """What the outputs of a weight did in the trial pass before any other product.

    chooses: a top-k or the like chose among them. weighs: a softmax ran over them.
    """

    chooses: bool
    weighs: bool


def note_choice(module: nn.Module, name: str, chooses: bool, weighs: bool) -> None:
    """Store what the trial pass saw of a weight in its module."""
    module.__dict__.setdefault(_SEEN, {})[name] = RouterVerdict(chooses, weighs)


def verdict(module: nn.Module, name: str) -> RouterVerdict | None:
    """Return what the trial pass saw of a weight; None if it took no part in one."""
    found: RouterVerdict | None = module.__dict__.get(_SEEN, {}).get(name)
    return found


def own_weights(block: nn.Module) -> Iterator[tuple[str, nn.Module, str, int]]:
    """Yield the matrices of layers and the parameters of two dimensions of no layer: path, module, name, outputs."""
    for path, module in block.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield path, module, "weight", _sizes(module)[0]
        elif not is_layer(module):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 2:
                    yield f"{path}.{name}" if path else name, module, name, len(parameter)


def has_linear(module: nn.Module) -> bool:
    """Whether a module is or contains a linear layer."""
    return any(isinstance(child, nn.Linear | Conv1D) for child in module.modules())


def has_experts(block: nn.Module) -> bool:
    """Whether a block routes tokens to experts."""
    return bool(experts_of(block)) or any("expert" in name.lower() for name, _ in block.named_modules())


def experts_of(block: nn.Module) -> dict[str, int]:
    """Return the number of experts by the path of the module that holds them."""
    return {name: count for name, module in block.named_modules() if (count := _experts_in(module))}


def is_choice(block: nn.Module, name: str, module: Any, experts: Mapping[str, int]) -> bool:
    """Whether a layer computes a choice, not a state: it has one output, or its outputs choose among experts.

    They do if the trial pass saw it, or if the layer is next to the experts with one output for each, or for each and
    one more (an option to use none). Layers with so few outputs that a sibling layer reads are no routers (the first
    matrix of a shared expert of that width). A layer that feeds only a router is part of it (`down_proj` before Zaya's
    `router_mlp`). Only if none of this applies does the name decide: see `_is_named_router`.
    """
    rows = _sizes(module)[0]
    return rows == 1 or _chooses(block, name, module, experts) or _feeds_router(block, name, experts)


def _chooses(block: nn.Module, name: str, layer: nn.Module, experts: Mapping[str, int]) -> bool:
    """Whether the outputs of a layer choose among experts, or else it is named a router and can be one."""
    rows = _sizes(layer)[0]
    beside = {count for path, count in experts.items() if _is_beside(block, name, path)}
    seen = verdict(layer, "weight")
    few = experts and rows <= MOST * max(experts.values())
    chosen = seen is not None and few and (seen.chooses or (seen.weighs and bool(beside)))
    each = rows in beside or (seen is None and rows - 1 in beside)
    if (chosen or each) and not _is_read_beside(block, name, rows):
        return True
    return _is_named_router(block, name, layer)


def _is_beside(block: nn.Module, name: str, path: str) -> bool:
    """Whether a layer is next to the experts that the module at `path` holds, and in none of them.

    If the block itself holds them, its own layers are next to them, but not those of its attention.
    """
    if not path:
        return "." not in name
    return name.startswith(f"{path}.") and not is_inside(block, name, path)


def _is_named_router(block: nn.Module, name: str, layer: nn.Module) -> bool:
    """Whether a layer is named a router, and has few outputs that no sibling layer turns into a state again.

    The last resort: for a choice among something other than the experts (Gemma 3n's `modality_router`), or with an
    option besides them (Zaya's to skip them).
    """
    rows, columns = _sizes(layer)
    if rows * _FEW > columns or not any("router" in part for part in name.split(".")):
        return False
    return (columns, rows) not in [_sizes(other) for other in _siblings(block, name)]


def _feeds_router(block: nn.Module, name: str, experts: Mapping[str, int]) -> bool:
    """Whether a layer shares a submodule with a router: one next to the experts that holds no experts itself.

    The only output of such a submodule is the choice of experts.
    """
    for path in experts:
        if not path or not name.startswith(f"{path}.") or is_inside(block, name, path):
            continue
        parts = name[len(path) + 1 :].split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            gate = ".".join([path, *parts[:depth]])
            if any(holder == gate or holder.startswith(f"{gate}.") for holder in experts):
                continue
            layers = block.get_submodule(gate).named_modules(prefix=gate)
            if any(
                isinstance(layer, nn.Linear | Conv1D) and _chooses(block, other, layer, experts)
                for other, layer in layers
                if other != name
            ):
                return True
    return False


def _is_read_beside(block: nn.Module, name: str, rows: int) -> bool:
    """Whether a sibling layer has the transposed shape, or takes this layer's `rows` outputs as input."""
    here = _sizes(block.get_submodule(name))
    return any(
        there[0] > 1 and (there == here[::-1] or (there[1] == rows and there[0] != rows))
        for there in map(_sizes, _siblings(block, name))
    )


def _siblings(block: nn.Module, name: str) -> list[nn.Module]:
    """Return the other layers in a layer's parent module."""
    parent, _, own = name.rpartition(".")
    children = block.get_submodule(parent).named_children()
    return [layer for other, layer in children if other != own and isinstance(layer, nn.Linear | Conv1D)]


def _sizes(module: Any) -> tuple[int, int]:
    """Return a layer's (out, in)."""
    rows, columns = module.weight.shape
    return (int(columns), int(rows)) if isinstance(module, Conv1D) else (int(rows), int(columns))


def is_inside(block: nn.Module, name: str, path: str) -> bool:
    """Whether a layer is part of an expert: in a `ModuleList` below `path`, like `mlp.experts.3.up_proj`.

    An `nn.Sequential` isn't a list of experts: a gate can be one.
    """
    module = block.get_submodule(path)
    for part in (name[len(path) + 1 :] if path else name).split("."):
        if isinstance(module, nn.ModuleList):
            return True
        module = getattr(module, part)
    return False


def _experts_in(module: nn.Module) -> int:
    """Count the experts among a module's children and grandchildren (a list or fused parameters); 0 if none."""
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child) > 1 and all(map(has_linear, child)):
            return len(child)
        fused = [
            stacked(child, n, p)
            for n, p in child.named_parameters(recurse=False)
            if orientation(child, n, p) is not None
        ]
        if fused and len(fused[0]) > 1:
            return len(fused[0])
    return 0
