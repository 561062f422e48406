"""A pass over a few tokens, to see what a model's own code does with weights that nothing declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomia.compress.choices import ChoiceWatch, candidates, take_choices
from anomia.compress.layouts import LayoutWatch, take_layouts, unknown_layouts
from anomia.errors import CompressionError
from anomia.models.shrunk import NotBuiltError, tiny_model

# Enough tokens that every layer chooses at least one expert; a prime number, which no other size is.
TOKENS = 61


def try_model(
    model: Any, blocks: Sequence[nn.Module], blocks_of: Callable[[nn.Module], Sequence[nn.Module]]
) -> None:
    """Find the layouts of undeclared parameters and the layers that choose experts, and note them in their modules.

    Runs a few tokens through the model, or through a tiny model of the same architecture if the weights aren't loaded.
    What can't be found stays unknown. blocks_of: finds the blocks of that tiny model, with their notes.
    """
    small: Sequence[nn.Module] | None = None
    unknown = unknown_layouts(blocks)
    if unknown:
        if unknown[0].parameter.is_meta:
            small = _small(model, blocks_of)
            take_layouts(unknown, small)
        else:
            layouts = LayoutWatch(unknown)
            if _run(model, *layouts.modes):
                layouts.note()
    # The experts may be known only now.
    watched = candidates(blocks)
    if watched:
        if watched[0].weight.is_meta:
            take_choices(watched, _small(model, blocks_of) if small is None else small)
        else:
            choices = ChoiceWatch(watched)
            if _run(model, choices):
                choices.note()


def _small(model: Any, blocks_of: Callable[[nn.Module], Sequence[nn.Module]]) -> Sequence[nn.Module]:
    """Return the blocks of a tiny model of the same architecture; none if it can't be built."""
    try:
        return blocks_of(tiny_model(model.config))
    except (NotBuiltError, CompressionError):
        return ()


@torch.no_grad()
def _run(model: Any, *modes: TorchDispatchMode) -> bool:
    """Run a few tokens, [1, S], through a model under some modes. Returns whether it could be run."""
    training = [part for part in model.modules() if part.training]
    try:
        ids = torch.arange(TOKENS, device=next(model.parameters()).device)[None]
        ids %= model.get_input_embeddings().weight.shape[0]
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            model.eval()(input_ids=ids, use_cache=False)
    except torch.OutOfMemoryError:
        raise
    # A model may need other inputs than tokens.
    except Exception:
        return False
    finally:
        for part in training:
            part.training = True
    return True
