"""A small float32 copy of a model, on which structural faults can be told from rounding."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from anomia.compress.blocks import find_blocks
from anomia.errors import CompressionError
from anomia.models.sizes import text_part, types_of


def shallow_twin(model: Any) -> Any | None:
    """Copies a model in float32 with only its first blocks: at least two, and at least one of each kind.

    In half precision, two passes over the same tokens can differ as much as if one of them missed a token: on CPUs
    with bfloat16 instructions, Gemma 3 270M with left padding differs from itself by 0.2 standard deviations of its
    logits. In float32 the difference is a millionth, and a structural fault shows in every block.

    Returns None if no copy can be made: quantized weights, blocks that depend on others, too little memory.
    """
    if any(not parameter.is_floating_point() for parameter in model.parameters()):
        return None
    try:
        blocks = find_blocks(model)
        where, _, name = blocks.name.rpartition(".")
        holder = model.get_submodule(where)
        kinds = _kinds(model, blocks.modules)
        count = max(2, *(kinds.index(kind) + 1 for kind in kinds))
        whole = getattr(holder, name)
        setattr(holder, name, nn.ModuleList(blocks.modules[:count]))
        try:
            twin = copy.deepcopy(model)
        finally:
            setattr(holder, name, whole)
        twin = twin.float()
    # Third-party modules may fail in many ways when copied or cast.
    except (CompressionError, RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None
    config = text_part(twin.config)
    if (types := types_of(config)) is not None:
        config.layer_types = types[:count]
    config.num_hidden_layers = count
    return twin


def _kinds(model: Any, blocks: tuple[nn.Module, ...]) -> list[tuple[str, str]]:
    """The kind of each block: its class, and the attention type that the configuration gives it."""
    types = types_of(model.config) or [""] * len(blocks)
    return [(type(block).__name__, kind) for block, kind in zip(blocks, types, strict=True)]
