"""What every tensor of a reshaped model is made of, before any of them is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn


class Part(NamedTuple):
    """A tensor of the new model. sources: names in the old one. make: takes their values, on any device or none."""

    sources: tuple[str, ...]
    make: Callable[..., torch.Tensor]

    def then(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Part:
        """The same, changed once more."""
        return Part(self.sources, lambda *values: change(self.make(*values)))

    def of(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensor. values: at least those of the sources, by name."""
        return self.make(*(values[name] for name in self.sources))


class ReshapePlan(NamedTuple):
    """A result, ready to be built. changes: fields of the text configuration. parts: every tensor by its new name."""

    config: Any
    changes: Mapping[str, Any]
    parts: Mapping[str, Part]


def taken(name: str) -> Part:
    """A tensor of the old model as it is."""
    return Part((name,), lambda value: value)


def given(value: torch.Tensor) -> Part:
    """A tensor that is there already."""
    return Part((), lambda: value)


def rows_of(part: Part, dim: int, rows: torch.Tensor) -> Part:
    """Some rows of a tensor along a dimension. rows: [kept] int64."""
    return part.then(lambda value: value.index_select(dim, rows.to(value.device)))


def all_taken(model: nn.Module) -> dict[str, Part]:
    """Every saved tensor of a model as it is."""
    return {name: taken(name) for name in model.state_dict()}


@torch.no_grad()
def outline(parts: Mapping[str, Part], model: nn.Module) -> dict[str, torch.Tensor]:
    """The new tensors without their values. model: the old one, whose values aren't read."""
    old = {name: value.to("meta") for name, value in model.state_dict().items()}
    return {name: part.of(old).to("meta") for name, part in parts.items()}
