"""Parameters that hold several matrices (one per expert or head), or one matrix in three dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from anomia.compress.shared import shared_names

# Module attribute: the layout that the trial pass found, by parameter name.
SEEN = "_anomia_layouts"


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


class RowStack(NamedTuple):
    """A parameter of two dimensions that holds matrices one below the other (DBRX's experts), [number · rows, columns].

    number: 0 if it isn't known how many; 1 if the parameter is one matrix. transposed: whether the rows of each are its
    inputs.
    """

    number: int
    transposed: bool


# True: multiplied as [E, in, out]; False: as [E, out, in]; None: in no product, or in unequal parts.
Layout = bool | Fold | RowStack | None


def orientation(module: nn.Module, name: str, parameter: nn.Parameter) -> bool | None:
    """Whether a parameter is a stack of [in, out] matrices (True) or [out, in] matrices (False); None if neither."""
    seen: Layout = module.__dict__.get(SEEN, {}).get(name)
    if isinstance(seen, RowStack):
        return seen.transposed if seen.number > 1 else None
    if parameter.dim() != 3:
        return None
    declared = getattr(module, "is_transposed", None)
    if isinstance(declared, bool):
        return declared if min(parameter.shape[1:]) > 1 else None
    return seen if isinstance(seen, bool) else None


def fold(module: nn.Module, name: str) -> Fold | None:
    """Return how a parameter holds a single matrix, if the trial pass found that it does."""
    seen: Layout = module.__dict__.get(SEEN, {}).get(name)
    return seen if isinstance(seen, Fold) else None


def stacked(module: nn.Module, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Return a stack of matrices as a view in three dimensions, [E, ., .]."""
    seen: Layout = module.__dict__.get(SEEN, {}).get(name)
    return (
        parameter.view(seen.number, -1, parameter.shape[-1])
        if isinstance(seen, RowStack) and seen.number > 1
        else parameter
    )


def is_unread(module: nn.Module, name: str) -> bool:
    """Whether the trial pass found that no product reads a parameter."""
    seen = module.__dict__.get(SEEN, {})
    return name in seen and seen[name] is None


def is_whole(module: nn.Module, name: str) -> bool:
    """Whether the trial pass found that a parameter of two dimensions is multiplied as one matrix."""
    seen: Layout = module.__dict__.get(SEEN, {}).get(name)
    return isinstance(seen, RowStack) and seen.number == 1


def is_layer(module: nn.Module) -> bool:
    """Whether a module's own parameters have a meaning by its type, so that they are no stack of matrices."""
    return isinstance(
        module, nn.Linear | Conv1D | nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention
    )


def stacks(block: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Yield parameters that may be stacks of matrices: module path, module, parameter name, parameter.

    A parameter is [E, ., .], or one in which the trial pass found several matrices one below the other.
    """
    for path, module in block.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            if full in shared_names(block):
                continue
            seen: Layout = module.__dict__.get(SEEN, {}).get(name)
            several = isinstance(seen, RowStack) and seen.number != 1
            if several or (parameter.dim() == 3 and min(parameter.shape[1:]) > 1):
                yield path, module, name, parameter
