"""Parameters that hold a stack of matrices, one per expert or head, and how these matrices are laid out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from anomia.compress.products import Watched, WeightProducts
from anomia.compress.shared import shared_names
from anomia.errors import CompressionError
from anomia.models.shrunk import NotBuiltError, tiny_model

# Enough tokens that every layer chooses at least one expert.
_TRIAL_TOKENS = 64
# Module attribute: result of the trial pass by parameter name. True: multiplied as [E, in, out]; None: in no product.
_SEEN = "_anomia_orientations"


def orientation(module: nn.Module, name: str, parameter: nn.Parameter) -> bool | None:
    """Whether a parameter is a stack of [in, out] matrices (True) or [out, in] matrices (False); None if neither."""
    if parameter.dim() != 3:
        return None
    declared = getattr(module, "is_transposed", None)
    if isinstance(declared, bool):
        return declared if min(parameter.shape[1:]) > 1 else None
    seen: bool | None = module.__dict__.get(_SEEN, {}).get(name)
    return seen


def is_unread(module: nn.Module, name: str) -> bool:
    """Whether the trial pass looked for a stack that has no orientation: no product read it."""
    return name in module.__dict__.get(_SEEN, {})


def stacks(block: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Yield parameters that may be stacks of matrices: module path, module, parameter name, parameter [E, ., .]."""
    for path, module in block.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if full in shared_names(block):
                continue
            if parameter.dim() == 3 and min(parameter.shape[1:]) > 1:
                yield path, module, name, parameter


def find_orientations(
    model: Any, blocks: Sequence[nn.Module], blocks_of: Callable[[nn.Module], Sequence[nn.Module]]
) -> None:
    """Find the orientation of undeclared stacks of matrices, and store it in their modules.

    Runs a few tokens through the model, or through a tiny model of the same architecture if the weights aren't loaded.
    blocks_of: finds the blocks of that tiny model, with their orientations.
    """
    unknown = [
        (module, name, parameter)
        for block in blocks
        for _, module, name, parameter in stacks(block)
        if not isinstance(getattr(module, "is_transposed", None), bool) and not is_unread(module, name)
    ]
    if not unknown:
        return
    if unknown[0][2].is_meta:
        try:
            small = blocks_of(tiny_model(model.config))
        except (NotBuiltError, CompressionError):
            return
        seen = {
            (type(module), name): transposed
            for block in small
            for module in block.modules()
            for name, transposed in module.__dict__.get(_SEEN, {}).items()
        }
    else:
        seen = _watch_orientations(model, unknown)
    for module, name, _ in unknown:
        if (type(module), name) in seen:
            module.__dict__.setdefault(_SEEN, {})[name] = seen[type(module), name]


@torch.no_grad()
def _watch_orientations(
    model: Any, unknown: Sequence[tuple[nn.Module, str, nn.Parameter]]
) -> dict[tuple[type, str], bool | None]:
    """Return by class and name whether a stack is multiplied as [E, in, out]; None if it is in no product.

    Stacks multiplied in another shape or in both orientations are left out.
    """
    watched = [
        Watched(f"{number} {kind}", part.T if kind else part)
        for number, (_, _, parameter) in enumerate(unknown)
        for kind in (0, 1)
        for part in parameter.data
    ]
    used: set[str] = set()
    ids = torch.arange(_TRIAL_TOKENS, device=unknown[0][2].device)[None]
    ids %= model.get_input_embeddings().weight.shape[0]
    products = WeightProducts(watched, lambda name, *_: used.add(name))
    training = [part for part in model.modules() if part.training]
    try:
        with products:
            model.eval()(input_ids=ids, use_cache=False)
    finally:
        for part in training:
            part.training = True
    seen: dict[tuple[type, str], set[bool | None]] = {}
    for number, (module, name, _) in enumerate(unknown):
        kinds = {bool(kind) for kind in (0, 1) if f"{number} {kind}" in used}
        if kinds or f"{number} 0" in products.unread:
            seen.setdefault((type(module), name), set()).update(kinds or {None})
    multiplied = {
        key: next(iter(kinds)) for key, kinds in seen.items() if len(kinds) == 1 and kinds != {None}
    }
    untouched = {
        (type(module), name): None for module, name, _ in unknown if (type(module), name) not in seen
    }
    return multiplied | untouched
