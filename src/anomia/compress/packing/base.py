"""What a format of packed checkpoints provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.methods.grid import Grid, Quantized
from anomia.compress.steps import Quantize


class Layers(NamedTuple):
    """The linear layers of a packed model, by their names in the model.

    blocks: the path that all decoder blocks share. packed: below `blocks`. dense: all others, with routers and head.
    """

    blocks: str
    packed: tuple[str, ...]
    dense: tuple[str, ...]


class PackedFormat(NamedTuple):
    """A format of packed checkpoints.

    mark: the tensor that every packed layer has, by the name after the layer's path.
    tensors_of: returns the tensors to store instead of a layer's `weight`, by that name.
    read: undoes `tensors_of`.
    why_not: why a matrix of a shape [out, in] can't be stored; empty if it can.
    settings: returns the entry `quantization_config` of config.json.
    copy: the name of another file that repeats the settings, if the format has one.
    splits: whether transformers can load the format for an architecture whose stored weights it splits.
    merged: why matrices that transformers merges into one parameter while loading can't be stored; empty if they can.
    """

    mark: str
    tensors_of: Callable[[Quantized], dict[str, torch.Tensor]]
    read: Callable[[Mapping[str, torch.Tensor], Grid], Quantized]
    why_not: Callable[[tuple[int, int], Grid], str]
    settings: Callable[[Quantize, Layers], dict[str, Any]]
    merged: Callable[[Grid], str]
    splits: bool
    copy: str = ""


def layers_of(model: nn.Module, blocks: str, packed: set[str]) -> Layers:
    """Sort the linear layers of a model. packed: names of the packed ones."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return Layers(
        blocks,
        tuple(sorted(packed.intersection(linear))),
        tuple(sorted(n for n in linear if n not in packed)),
    )
