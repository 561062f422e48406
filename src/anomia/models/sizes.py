"""Sizes of a decoder from its configuration, whatever the architecture calls them.

A field is not always a number: Gemma 3n has a list of feed-forward sizes, one per layer, and Gemma 4 has other heads in
its global layers. The largest value counts, because memory is planned with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "model_dim")
_HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads",
    "num_query_heads",
)  # fmt: skip
_KV_HEADS = ("num_key_value_heads", "num_global_key_value_heads", "num_kv_heads", "multi_query_group_num")
_HEAD = (
    "head_dim",
    "global_head_dim",
    "qk_head_dim",
    "kv_channels",
    "v_head_dim",
    "attention_head_dim",
    "head_size",
)
_INNER = (
    "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "inner_hidden_size", "d_ff", "decoder_ffn_dim",
    "ffn_intermediate_size", "hidden_dim",
)  # fmt: skip


class Sizes(NamedTuple):
    """Sizes of a decoder.

    width: of hidden states. heads: of queries. kv_heads: of keys and values. head: size of one head. inner: width of
    the feed-forward layer.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    inner: int


def sizes_of(config: Any) -> Sizes:
    """The sizes of a text configuration; missing ones are derived from others by the usual rules."""
    layers, width = number(config, *_LAYERS) or 1, number(config, *_WIDTH) or 1
    heads = number(config, *_HEADS) or 1
    head = number(config, *_HEAD) or max(1, width // heads)
    return Sizes(
        layers, width, heads, number(config, *_KV_HEADS) or heads, head, number(config, *_INNER) or 4 * width
    )


def number(config: Any, *names: str) -> int | None:
    """The largest of some fields that are positive integers or lists of them; None if there is none."""
    found = [value for name in names for value in _values(config, name)]
    numbers = [each for each in found if isinstance(each, int) and not isinstance(each, bool) and each > 0]
    return max(numbers, default=None)


def _values(config: Any, name: str) -> list[Any]:
    """All values of a field in a configuration; for a field of the layers, one value per layer."""
    try:
        value = getattr(config, name, None)
    except RuntimeError:
        # transformers doesn't allow reading such a field for the whole model.
        return [getattr(layer, name, None) for layer in config.per_layer_config]
    except (ArithmeticError, TypeError, ValueError):
        # It is computed from other fields, which don't allow it.
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
