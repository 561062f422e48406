"""A small float32 likeness of a model, on which structure can be told from rounding."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from anomia.compress.blocks import find_blocks
from anomia.errors import CompressionError


def shallow_twin(model: Any) -> Any | None:
    """A copy of a model in float32 with its first blocks, one of each kind and at least two.

    In half precision two passes over the same tokens can differ by as much as a pass in which a token is not seen:
    on CPUs with bfloat16 instructions Gemma 3 270M differs from itself, behind padding, by 0.2 standard deviations
    of its logits. In float32 they differ by a millionth, and a fault of structure stands in every block.

    Returns None where there is no such copy: weights that are quantized, blocks that need others, no memory.
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
    # Foreign modules may refuse to be copied or cast in any way.
    except (CompressionError, RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None
    config = twin.config.get_text_config()
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = list(config.layer_types)[:count]
    config.num_hidden_layers = count
    return twin


def _kinds(model: Any, blocks: tuple[nn.Module, ...]) -> list[tuple[str, str]]:
    """What tells blocks apart: their class, and the kind of attention that the configuration gives them."""
    types = getattr(model.config.get_text_config(), "layer_types", None) or [""] * len(blocks)
    return [(type(block).__name__, str(kind)) for block, kind in zip(blocks, types, strict=True)]
