"""Recipes for the tensors of a reshaped model, made before any tensor is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn


class TensorRecipe(NamedTuple):
    """Recipe for a tensor of the new model. sources: names in the old model. make: takes their values, any device."""

    sources: tuple[str, ...]
    make: Callable[..., torch.Tensor]

    def then(self, change: Callable[[torch.Tensor], torch.Tensor]) -> TensorRecipe:
        """Return a part with another change applied after this one's."""
        return TensorRecipe(self.sources, lambda *values: change(self.make(*values)))

    def of(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Make the tensor. values: by name, at least those of the sources."""
        return self.make(*(values[name] for name in self.sources))


class ReshapePlan(NamedTuple):
    """A planned model. changes: new values of text configuration fields. parts: every tensor by its new name."""

    config: Any
    changes: Mapping[str, Any]
    parts: Mapping[str, TensorRecipe]


def taken(name: str) -> TensorRecipe:
    """Take a tensor of the old model unchanged."""
    return TensorRecipe((name,), lambda value: value)


def given(value: torch.Tensor) -> TensorRecipe:
    """Take a tensor that exists already."""
    return TensorRecipe((), lambda: value)


def rows_of(part: TensorRecipe, dim: int, rows: torch.Tensor) -> TensorRecipe:
    """Select entries of a tensor along a dimension. rows: their indices, [kept] int64."""
    return part.then(lambda value: value.index_select(dim, rows.to(value.device)))


def all_taken(model: nn.Module) -> dict[str, TensorRecipe]:
    """Take every saved tensor of a model unchanged."""
    return {name: taken(name) for name in model.state_dict()}


@torch.no_grad()
def outline(parts: Mapping[str, TensorRecipe], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the new tensors on the meta device. model: the old one; its values aren't read."""
    old = {name: value.to("meta") for name, value in model.state_dict().items()}
    return {name: part.of(old).to("meta") for name, part in parts.items()}
