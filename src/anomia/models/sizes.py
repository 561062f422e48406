"""Sizes of a decoder from its configuration, whatever the architecture calls them.

A field is not always a number: Gemma 3n has a list of feed-forward sizes, one per layer, and Gemma 4 has other heads in
its global layers; other files have None, strings or fractions. So numbers are read here and nowhere else. Every
function takes a whole configuration or its text part.
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
    """The sizes of a decoder, to plan memory with; missing ones are derived from others by the usual rules."""
    layers, width = number(config, *_LAYERS) or 1, number(config, *_WIDTH) or 1
    heads = number(config, *_HEADS) or 1
    head = number(config, *_HEAD) or max(1, width // heads)
    return Sizes(
        layers, width, heads, number(config, *_KV_HEADS) or heads, head, number(config, *_INNER) or 4 * width
    )


def number(config: Any, *names: str) -> int | None:
    """The largest of some fields that are positive integers or lists of them; None if there is none."""
    return max(_numbers([value for name in names for value in values_of(config, name)]), default=None)


def _numbers(values: Sequence[Any]) -> list[int]:
    return [each for each in map(whole, values) if each is not None]


def positions_of(config: Any) -> int | None:
    """The longest sequence that a model takes, in tokens; None if there is no limit."""
    return min(_numbers(values_of(config, "max_position_embeddings")), default=None)


def vocabulary_of(model: Any) -> int:
    """The vocabulary size of a model: what its configuration says, or else the rows of its embeddings."""
    return number(model.config, "vocab_size") or int(model.get_input_embeddings().weight.shape[0])


def layers_of(config: Any) -> int | None:
    """The number of layers; None if the configuration doesn't tell."""
    return number(config, "num_hidden_layers") or number(config, *_LAYERS)


def types_of(config: Any) -> list[str] | None:
    """The kind of attention of each layer (`layer_types`); None if the configuration doesn't tell."""
    types = getattr(text_part(config), "layer_types", None)
    is_list = isinstance(types, Sequence) and not isinstance(types, str)
    return [str(kind) for kind in types] if types and is_list else None


def whole(value: Any) -> int | None:
    """The value if it is a positive integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def fraction(config: Any, name: str) -> float | None:
    """The value of a field if it is a positive finite number, else None."""
    values = values_of(config, name)
    value = values[0] if len(values) == 1 else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 < value < float("inf") else None


def text_part(config: Any) -> Any:
    """The part of a configuration that describes the text decoder."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def values_of(config: Any, name: str) -> list[Any]:
    """All values of a field in a configuration; for a field of the layers, one value per layer."""
    config = text_part(config)
    try:
        value = getattr(config, name, None)
    except RuntimeError:
        # transformers doesn't allow reading such a field for the whole model.
        return [getattr(layer, name, None) for layer in config.per_layer_config]
    except (ArithmeticError, TypeError, ValueError):
        # It is computed from other fields, which don't allow it.
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
