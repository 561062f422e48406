"""Causal attention for one strip of queries at a time: faster than the stock kernel for half precision on a CPU.

PyTorch's fused CPU kernel runs bfloat16 products at a quarter of the rate of plain matrix products (measured: 24 ms
against 6 ms for two windows of 512 tokens, 4 heads of 256). Calibration is two forward passes, so it would spend as
long in attention as in all linear layers together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "anomia_strips"
STRIP = 128


def strip_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute softmax attention of each strip of queries over the keys up to its end, with the softmax in float32.

    query: [B, H, S, D]; key, value: [B, G, S, D], where G divides H. attention_mask: `None` for causal, else causal
    [B or 1, 1, S, S], boolean (True is seen) or additive.
    Returns [B, S, H, D]. Other kinds of attention are left to the stock kernel.
    """
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    unusual = {name for name, given in kwargs.items() if name in _UNUSUAL and given is not None}
    if unusual or not causal or query.shape[2] != key.shape[2]:
        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return out
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    shared = heads // groups
    scale = scaling if scaling is not None else width**-0.5
    query = query.reshape(batch, groups, shared, length, width)
    result = query.new_empty(batch, groups, shared, length, value.shape[-1])
    for start in range(0, length, STRIP):
        end = min(start + STRIP, length)
        rows = query[:, :, :, start:end].reshape(batch, groups, shared * (end - start), width)
        scores = (rows @ key[:, :, :end].transpose(-1, -2)).float().mul_(scale)  # [B, G, r·c, end]
        scores = scores.view(batch, groups, shared, end - start, end)
        scores += _additive(attention_mask, start, end, scores.device)
        weights = scores.softmax(dim=-1).to(value.dtype).view(batch, groups, -1, end)
        strip = weights @ value[:, :, :end]  # [B, G, r·c, D]
        result[:, :, :, start:end] = strip.view(batch, groups, shared, end - start, -1)
    return result.view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


_UNUSUAL = frozenset({"softcap", "s_aux", "position_bias", "cache"})


def _additive(mask: torch.Tensor | None, start: int, end: int, device: torch.device) -> torch.Tensor:
    """Return the additive mask of a strip, 0 or −inf: [c, end] or [B or 1, 1, 1, c, end], broadcast to the scores.

    mask: [B or 1, 1, S, S] or None. start, end: the strip of c = end − start queries.
    """
    if mask is None:
        seen = torch.arange(end, device=device) <= torch.arange(start, end, device=device)[:, None]
        return torch.zeros(seen.shape, device=device).masked_fill_(~seen, -torch.inf)
    part = mask[:, :, start:end, :end].unsqueeze(2)  # [B, 1, 1, c, end]
    if part.dtype != torch.bool:
        return part.float()
    return torch.zeros(part.shape, device=device).masked_fill_(~part, -torch.inf)


@contextmanager
def strips_where_faster(model: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Use `strip_attention` in the model temporarily, if it runs in half precision on the CPU with sdpa.

    device: on which the blocks will run, if their weights aren't loaded yet.
    """
    config = getattr(model, "config", None)
    weight = next(model.parameters())
    suits = (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and (device or weight.device).type == "cpu"
        and weight.dtype in (torch.bfloat16, torch.float16)
    )
    if not suits:
        yield
        return
    AttentionInterface.register(NAME, strip_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with implementations_kept(model):
        model.set_attn_implementation(NAME)  # type: ignore[operator]
        yield


@contextmanager
def implementations_kept(model: nn.Module) -> Iterator[None]:
    """Restore the attention and experts implementations of every part of a model on exit."""
    configs = {
        id(config): config
        for part in model.modules()
        if (config := getattr(part, "config", None)) is not None
    }
    before = [
        (config, name, config.__dict__[name])
        for config in configs.values()
        for name in _IMPLEMENTATIONS
        if name in getattr(config, "__dict__", {})
    ]
    try:
        yield
    finally:
        for config, name, value in before:
            config.__dict__[name] = value


_IMPLEMENTATIONS = ("_attn_implementation_internal", "_experts_implementation_internal")
