"""Shrinks every size in a configuration, for a model of the same architecture that is built in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import transformers

from anomia.words import innermost

VOCABULARY = 96
LONGEST = 128
# The most weights that a tiny model may have; more means that a field was missed.
LARGEST = 3_000_000

# Patterns for the names of fields, and their sizes in a tiny model. The first match counts.
_ROLES: Sequence[tuple[str, int]] = (
    (r"^(ngram_vocab_size_base|make_ngram_vocab_size_divisible_by|split_ngram_parts)$", 2),
    (r"(^|_)vocab_size|_vocab$", VOCABULARY),
    (r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length|model_max_length|context_length"
     r"|max_(source|target)_positions|original_max_position_embeddings|rel_extent)$", LONGEST),
    (r"sliding_window|window_size|attention_chunk_size|window_len$|^local_attention$|chunk_length$", 16),
    (r"chunk_?size$|^block_size$|index_block_size", 16),
    (r"^indexer_kv_heads$", 1),
    (r"^num_query_groups$|(kv|key_value|key)_heads$|^multi_query_group_num$", 2),
    (r"(^|_)(num_)?heads?$(?<!d_head)(?<!dim_head)", 4),
    (r"^first_k_dense_replace$|^num_dense_layers$|^n_dense_layers$|^num_dense_mlp_layers$", 1),
    (r"router_hidden_size", 32),
    (r"^(shared_)?(moe_|expert_|shared_experts?_|moe_shared_expert_)\w*(intermediate|hidden)_size$", 24),
    (r"num_(local_)?experts_per_tok|moe_topk|^moe_(top_?)?k$|num_selected_experts|^top_?k(_experts)?$", 2),
    (r"(num|n|moe_num)_(local_|routed_|shared_)?experts$|^moe_num_experts$|^zero_expert_num$", 4),
    (r"^n_group$|^topk_group$|^num_expert_group|^n_groups$", 1),
    (r"index_topk", 8),
    (r"(rope|nope)_head_dim$", 8),
    (r"^qk_head_dim$", 16),
    (r"^query_pre_attn_scalar$", 8),
    (r"^mamba_?(d_head|head_?dim)$", 16),
    (r"(head_dim|head_size|kv_channels|d_head|dim_head)$", 8),
    (r"^rotary_dim$", 4),
    (r"_rank$", 8),
    (r"state_size|d_state$", 8),
    (r"^mamba_d_ssm$", 64),
    (r"(intermediate|ffn_hidden|feed_forward|ffn)_size(_mlp)?$|^(dff|d_ff|n_inner|inner_dim|d_inner)$|ffn_dim$"
     r"|^dim_ff$|^prompt_mid_dim$", 48),
    (r"hidden_size_per_layer_input|ple_embed_dim", 8),
    (r"(hidden|embedding|embed)_size$|(^|_)(d_model|n_embd|dim|emb_dim|embed_dim|embedding_dim|lru_width|proj_dim"
     r"|projection_dim)$", 32),
)  # fmt: skip
# Changes to try in turn if the small configuration is inconsistent.
_VARIANTS: Sequence[Mapping[str, Any]] = (
    {},
    {"fill": True},
    {"roles": ((r"^head_dim$|^mamba_headdim$", 16),)},
    {"roles": ((r"^(num_)?heads$", 8),)},
    {"fill": True, "roles": ((r"(kv|key_value)_heads$", 4),)},
    {"whole": True},
    {"roles": ((r"^num_kv_shared_layers$|hidden_size_per_layer_input", 0),)},
    # Zamba's attention is twice as wide as its hidden states.
    {
        "roles": (
            (r"^attention_hidden_size$", 64),
            (r"^attention_head_dim$", 16),
            (r"(kv|key_value)_heads$", 4),
        )
    },
    {"fill": True, "roles": ((r"budget$", 8), (r"compress_ratio$", 2))},
    # X-MOD needs one of its languages; Reformer's positions in two dimensions, whose sizes must add up, are optional.
    {"first_of": {"default_language": "languages"}},
    {"set": {"axial_pos_embds": False}},
    # XLNet's width is that of its heads together, and it may have fewer than four.
    {"roles": ((r"^n_head$", 4),)},
    # xLSTM rounds the sizes of its queries and states up to multiples of 64, and its state must have both.
    {"roles": ((r"^(hidden_size|embedding_dim)$", 128),)},
)
# Fields that are often None because their default depends on others.
_OPEN = re.compile(
    r"head_dim$|(heads|experts)$|experts_per_tok$|^moe_intermediate_size$|^intermediate_size$|^indexer_"
)
_LAYERS = re.compile(
    r"^(num_hidden_layers|n_layers?|num_layers|(en|de)coder_layers|num_blocks|num_(en|de)coder_layers"
    r"|num_layers_per_stack|num_mtp_layers|depth)$"
)
_MOST_LAYERS = 4
_OF_FILES = (
    "model_type",
    "transformers_version",
    "dtype",
    "architectures",
    "quantization_config",
    "per_layer_config",
)


class NotBuiltError(Exception):
    """An architecture can't be built small; the message says why."""


def tiny_model(config: Any, *, seed: int = 0) -> Any:
    """Builds a random float32 model with the architecture of a configuration, in evaluation mode.

    The same seed gives the same model. Fields are shrunk by the meaning of their names, not by a list of architectures;
    if the result is inconsistent, other sizes are tried. All kinds of layers are kept, up to four.

    Raises:
        NotBuiltError: no variant could be built; the message is that of the first error.
    """
    first: Exception | None = None
    for variant in (*_VARIANTS, *({**variant, "foreign": True} for variant in _VARIANTS)):
        try:
            return _build(config, seed, variant)
        except ImportError as error:
            raise NotBuiltError(f"it needs a package that is not installed: {_line(error)}") from None
        except Exception as error:
            first = first or error
    raise NotBuiltError(_line(first)) from None


def _line(error: Exception | None) -> str:
    first = None if error is None else innermost(error)
    return f"{type(first).__name__}: {' '.join(str(first).split())[:120]}"


def _build(config: Any, seed: int, variant: Mapping[str, Any]) -> Any:
    """A small random float32 model, tried on one text of 40 tokens: its logits must be finite and [1, 40, V].

    Raises `ValueError` if they aren't, or if the model isn't small.
    """
    with torch.device("meta"):
        outline = transformers.AutoModelForCausalLM.from_config(
            _tiny_config(config, variant), trust_remote_code=False
        )
    size = sum(parameter.numel() for parameter in outline.parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} weights remain of its smallest configuration")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            _tiny_config(config, variant), dtype=torch.float32, trust_remote_code=False
        ).eval()
        _randomize(model)
    with torch.no_grad():
        logits = model(input_ids=torch.arange(3, 43)[None], use_cache=False).logits
    if logits.shape[:2] != (1, 40) or not torch.isfinite(logits).all():
        raise ValueError(f"its logits are not numbers, or of shape {tuple(logits.shape)}")
    return model.requires_grad_(False)


def _tiny_config(config: Any, variant: Mapping[str, Any] = MappingProxyType({})) -> Any:
    small = _shrunk(config, variant)
    # For architectures that can be both encoder and decoder, take the decoder.
    if getattr(small, "is_decoder", None) is False:
        small.is_decoder = True
    return small


def _shrunk(config: Any, variant: Mapping[str, Any]) -> Any:
    fields = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
    layers = {value for name, value in fields.items() if _LAYERS.match(name) and isinstance(value, int)}
    longest = max(layers, default=0)
    lists, order = _shorter_lists(fields, longest, variant)
    count = len(order) or 2
    changed: dict[str, Any] = dict(lists)
    for name, value in fields.items():
        if name in changed:
            continue
        if isinstance(value, dict) and isinstance(part := _part(config, name), transformers.PretrainedConfig):
            changed[name] = _shrunk(part, variant)
        elif isinstance(value, int) and not isinstance(value, bool):
            small = _size(name, value, count, variant)
            if small != value or variant.get("whole"):
                changed[name] = small
        elif isinstance(value, list) and value and isinstance(value[0], int):
            small_list = _small_list(name, value, order or range(2), longest, variant)
            if small_list != value:
                changed[name] = small_list
        elif value is None and variant.get("fill") and _OPEN.search(name):
            changed[name] = _role(name, variant) or 4
        elif value is None and variant.get("fill") and name == "layer_types":
            changed[name] = ["full_attention"] * count
        elif variant.get("whole") and name not in ("model_type", "transformers_version", "dtype"):
            changed[name] = value
    changed |= {name: value for name, value in variant.get("set", {}).items() if name in fields}
    changed |= {
        name: fields[others][0] for name, others in variant.get("first_of", {}).items() if fields.get(others)
    }
    # Settings that differ from the class's defaults, such as switches that decide what the blocks consist of.
    own = {
        name: value
        for name, value in config.to_diff_dict().items()
        if not variant.get("foreign")
        and name in fields
        and name not in _OF_FILES
        and not isinstance(_part(config, name), transformers.PretrainedConfig)
    }
    return type(config)(**own | changed)


def _part(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except RuntimeError:  # a field that each layer has separately
        return None


def _shorter_lists(
    fields: Mapping[str, Any], layers: int, variant: Mapping[str, Any]
) -> tuple[dict[str, list[Any]], list[int]]:
    """Lists with one entry per layer, cut to the distinct kinds of layers and repeated; and the layers kept."""
    lists = {name: v for name, v in fields.items() if isinstance(v, list) and layers > 1 and len(v) == layers}
    if not lists:
        return {}, []
    kept: dict[Any, int] = {}
    for index in range(layers):
        kept.setdefault(
            tuple(str(v[index]) for v in lists.values() if not isinstance(v[index], float)), index
        )
    order = list(kept.values())[:_MOST_LAYERS]
    order = (order * 2)[: max(2, _MOST_LAYERS)]
    sizes = {name: _role(name, variant) for name in lists}
    short = {
        name: [sizes[name] if sizes[name] and isinstance(v[i], int) else v[i] for i in order]
        for name, v in lists.items()
    }
    return short, order


def _small_list(
    name: str, value: list[int], order: Sequence[int], layers: int, variant: Mapping[str, Any]
) -> list[int]:
    """Shrinks a list of token ids, sizes, or layer numbers."""
    if name.endswith("_token_id"):
        return [1]
    if role := _role(name, variant):
        return [role] * len(value)
    if layers > 1 and re.search(r"(layers|idxs|layer_ids|indices)$", name) and max(value) < layers:
        return [new for new, old in enumerate(order) if old in value] or [len(order) - 1]
    return value


def _role(name: str, variant: Mapping[str, Any]) -> int:
    return next(
        (size for pattern, size in (*variant.get("roles", ()), *_ROLES) if re.search(pattern, name)), 0
    )


def _size(name: str, value: int, layers: int, variant: Mapping[str, Any]) -> int:
    if any(re.search(pattern, name) for pattern, _ in variant.get("roles", ())):
        return _role(name, variant)
    if name.endswith("_token_id"):
        return min(value, 2)
    if _LAYERS.match(name):
        return min(value, layers)
    if name == "num_kv_shared_layers":
        return min(value, layers // 2)
    return min(value, _role(name, variant) or value)


@torch.no_grad()
def _randomize(model: Any) -> None:
    """Draws weights large enough that every path affects the output; nonzero constants stay."""
    for parameter in model.parameters():
        if parameter.dim() >= 2 and float(parameter.std()) > 0:
            torch.nn.init.normal_(parameter, std=0.2)
        elif not parameter.any():
            torch.nn.init.uniform_(parameter, 0.1, 0.3)
