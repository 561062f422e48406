"""Parameters of three dimensions: a stack of matrices, one per expert or head, or one matrix with its heads apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.products import Watched, WeightProducts
from anomia.compress.shared import shared_names
from anomia.errors import CompressionError
from anomia.models.shrunk import NotBuiltError, tiny_model

# Enough tokens that every layer chooses at least one expert.
_TRIAL_TOKENS = 64
# Module attribute: the layout that the trial pass found, by parameter name.
_SEEN = "_anomia_layouts"


class Fold(NamedTuple):
    """How one matrix fills a parameter of three dimensions, two of which are one of its sides (XLNet's heads).

    rows: dimensions that are the first side, 1 or 2. transposed: whether the first side is the inputs.
    """

    rows: int
    transposed: bool

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return the matrix, [out, in], a view of the parameter, [., ., .]."""
        flat = parameter.flatten(self.rows).flatten(0, self.rows - 1)
        return flat.T if self.transposed else flat


# True: multiplied as [E, in, out]; False: as [E, out, in]; None: in no product.
Layout = bool | Fold | None
_FOLDS = tuple(Fold(rows, transposed) for rows in (1, 2) for transposed in (False, True))


def orientation(module: nn.Module, name: str, parameter: nn.Parameter) -> bool | None:
    """Whether a parameter is a stack of [in, out] matrices (True) or [out, in] matrices (False); None if neither."""
    if parameter.dim() != 3:
        return None
    declared = getattr(module, "is_transposed", None)
    if isinstance(declared, bool):
        return declared if min(parameter.shape[1:]) > 1 else None
    seen: Layout = module.__dict__.get(_SEEN, {}).get(name)
    return seen if isinstance(seen, bool) else None


def fold(module: nn.Module, name: str) -> Fold | None:
    """Return how a parameter holds a single matrix, if the trial pass found that it does."""
    seen: Layout = module.__dict__.get(_SEEN, {}).get(name)
    return seen if isinstance(seen, Fold) else None


def is_unread(module: nn.Module, name: str) -> bool:
    """Whether the trial pass found that no product reads a parameter."""
    seen = module.__dict__.get(_SEEN, {})
    return name in seen and seen[name] is None


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
    """Find the layout of undeclared parameters of three dimensions, and store it in their modules.

    Runs a few tokens through the model, or through a tiny model of the same architecture if the weights aren't loaded.
    blocks_of: finds the blocks of that tiny model, with their orientations.
    """
    unknown = [
        (module, name, parameter)
        for block in blocks
        for _, module, name, parameter in stacks(block)
        if not isinstance(getattr(module, "is_transposed", None), bool)
        and name not in module.__dict__.get(_SEEN, {})
    ]
    if not unknown:
        return
    if unknown[0][2].is_meta:
        try:
            small = blocks_of(tiny_model(model.config))
        except (NotBuiltError, CompressionError):
            return
        seen = {
            (type(module), name): layout
            for block in small
            for module in block.modules()
            for name, layout in module.__dict__.get(_SEEN, {}).items()
        }
    else:
        seen = _watch_layouts(model, unknown)
    for module, name, _ in unknown:
        if (type(module), name) in seen:
            module.__dict__.setdefault(_SEEN, {})[name] = seen[type(module), name]


@torch.no_grad()
def _watch_layouts(
    model: Any, unknown: Sequence[tuple[nn.Module, str, nn.Parameter]]
) -> dict[tuple[type, str], Layout]:
    """Return the layout in which a parameter, [., ., .], is multiplied, by class and name.

    Parameters multiplied in another shape or in several layouts are left out.
    """
    # The slices come first: those of a stack are also some rows of it as one matrix.
    layouts: tuple[Layout, ...] = (False, True, *_FOLDS)
    watched = [
        Watched(f"{number} {kind}", part)
        for number, (_, _, parameter) in enumerate(unknown)
        for kind, layout in enumerate(layouts)
        for part in _parts(parameter.data, layout)
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
    seen: dict[tuple[type, str], set[Layout]] = {}
    for number, (module, name, _) in enumerate(unknown):
        kinds = {layout for kind, layout in enumerate(layouts) if f"{number} {kind}" in used}
        if kinds or any(f"{number} {kind}" in products.unread for kind in range(len(layouts))):
            seen.setdefault((type(module), name), set()).update(kinds or {None})
    multiplied = {
        key: next(iter(kinds)) for key, kinds in seen.items() if len(kinds) == 1 and kinds != {None}
    }
    untouched = {
        (type(module), name): None for module, name, _ in unknown if (type(module), name) not in seen
    }
    return multiplied | untouched


def _parts(parameter: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
    """Return the matrices of a parameter, [., ., .], in a layout, [out, in] each; none if they would be copies."""
    if isinstance(layout, Fold):
        return [layout.of(parameter)] if parameter.is_contiguous() else []
    return [part.T if layout else part for part in parameter]
