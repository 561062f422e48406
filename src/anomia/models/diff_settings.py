"""Differences in the configuration and in the generation settings of two models."""

from __future__ import annotations

import importlib
import inspect
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import transformers
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from anomia.models.describe import Description
from anomia.models.difference import Difference, Severity, listed, shown

# Settings on a model's origin, its training, or the values to return: inference doesn't read them.
_WITHOUT_EFFECT = re.compile(
    r"^(transformers_version|_?(model_)?name_or_path|_commit_hash|architectures|initializer_\w+"
    r"|init_(std|method|device|fn)"
    r"|use_cache|\w*dropout\w*|\w*pdrop|drop_path_rate|output_(attentions|hidden_states|scores|router_logits|logits)"
    r"|return_dict\w*|problem_type|id2label\..*|label2id\..*|pretraining_tp|torchscript|gradient_checkpointing"
    r"|router_\w*loss\w*|aux_loss\w*|summary_\w+|(bos|unk|sep|cls|mask|eos)_token_id|task_specific_params.*"
    r"|finetuning_task|tokenizer_class|prefix|chunk_size_feed_forward|_attn_implementation\w*|model_max_length)$"
)
# Compared elsewhere, or determined by settings that are.
_ELSEWHERE = {"dtype", "torch_dtype", "model_type", "vocab_size", "tie_word_embeddings"}
# Sizes, and the tensors whose shapes show them.
_LAYERS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"}
_HEADS = re.compile(r"attn|attention|[qkv]_proj|qkv|c_proj")
_HIDDEN = re.compile(r"mlp|ffn|feed_forward|fc\d|expert|dense_|(gate|up|down)_proj|\bw[123]\b")
_SIZES = {
    "num_attention_heads": _HEADS, "n_head": _HEADS, "num_key_value_heads": _HEADS, "head_dim": _HEADS,
    "intermediate_size": _HIDDEN, "n_inner": _HIDDEN, "ffn_dim": _HIDDEN, "moe_intermediate_size": _HIDDEN,
    "num_experts": _HIDDEN, "num_local_experts": _HIDDEN, "n_routed_experts": _HIDDEN,
    "hidden_size": re.compile(""), "n_embd": re.compile(""), "d_model": re.compile(""),
}  # fmt: skip
_EXPERTS = {"num_experts", "num_local_experts", "n_routed_experts"}
_INDEX = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer|blk)\.(\d+)\.")
_POSITIONS = {"max_position_embeddings", "n_positions", "n_ctx"}
# The longest prompt of a study, with its answer.
_LONGEST = 1024 + 32
# Rope types whose frequencies don't depend on the longest sequence that the model takes.
_FIXED_ROPE = {None, "default", "linear", "llama3", "proportional"}
# `config.name`, `getattr(config, "name", …)`, and the same for a module.
_READ = re.compile(
    r"\bconfig\.([a-z]\w+)|getattr\(\s*(?:self\.)?(?:\w+\.)?(?:config|module)\s*,\s*[\"'](\w+)[\"']"
)
_SAMPLING = {
    "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "renormalize_logits",
}  # fmt: skip
_OF_A_CALL = re.compile(
    r"^(_from_model_config|transformers_version|(bos|pad|decoder_start)_token_id|output_\w+|return_\w+|use_cache"
    r"|cache_\w+|compile_config|disable_compile|max_matching_ngram_size|.*assistant.*|prompt_lookup.*|low_memory)$"
)


def setting_differences(base: Description, other: Description) -> Iterator[Difference]:
    """Differences in the model class and its configuration."""
    if (base.kind, base.model_type) != (other.kind, other.model_type):
        yield Difference(
            "architecture", "confounding", f"{base.kind} ({base.model_type})", f"{other.kind} ({other.model_type})",
            "two architectures compute different things from the same weights",
        )  # fmt: skip
    if base.quantization != other.quantization:
        unknown = [
            str(each["quant_method"]) for each in (base.quantization, other.quantization)
            if each and each.get("quant_method") not in (None, *AUTO_QUANTIZATION_CONFIG_MAPPING)
        ]  # fmt: skip
        yield Difference(
            "quantization_config", "confounding" if unknown else "noted", _quantization(base), _quantization(other),
            f"transformers does not know the method {unknown[0]!r}, and loading refuses it" if unknown else
            "how the weights are stored is what a comparison is about",
        )  # fmt: skip
    unlike = [key for key in sorted({*base.settings, *other.settings}) if not _equal(base, other, key)]
    idle = [key for key in unlike if _WITHOUT_EFFECT.match(key)]
    for key in unlike:
        if key not in idle and key not in _ELSEWHERE:
            kind, why = _judged(key, base, other)
            left, right = base.settings.get(key), other.settings.get(key)
            yield Difference(f"config.json: {key}", kind, shown(left), shown(right), why)
    if idle:
        yield Difference(
            "config.json: settings without effect", "harmless", _values(base.settings, idle),
            _values(other.settings, idle), f"no part of a run reads {listed(idle, 6)}",
        )  # fmt: skip
    yield from _tied(base, other)
    if base.dtype != other.dtype:
        yield Difference(
            "dtype", "noted", base.dtype, other.dtype,
            "a run computes every model in base's type; alone, each would be loaded in its own",
        )  # fmt: skip


def generation_differences(base: Description, other: Description) -> Iterator[Difference]:
    """Differences in generation settings, except end tokens."""
    unlike = [
        key for key in sorted({*base.generation, *other.generation})
        if base.generation.get(key) != other.generation.get(key) and key != "eos_token_id"
    ]  # fmt: skip
    groups: tuple[tuple[str, Severity, list[str], str], ...] = (
        ("sampling defaults", "noted", [key for key in unlike if key in _SAMPLING],
         "greedy answers ignore them, and samples of a run have settings of their own"),
        ("generation settings", "noted", [key for key in unlike if key not in _SAMPLING and not _OF_A_CALL.match(key)],
         "a run generates without them, but those who use the model get them"),
        ("generation settings without effect", "harmless", [key for key in unlike if _OF_A_CALL.match(key)],
         "they change no token of an answer"),
    )  # fmt: skip
    for what, kind, keys, why in groups:
        if keys:
            yield Difference(what, kind, _values(base.generation, keys), _values(other.generation, keys), why)


def _judged(key: str, base: Description, other: Description) -> tuple[Severity, str]:
    """The kind of a difference in one setting, and the reason."""
    left, right = base.settings.get(key), other.settings.get(key)
    root = key.partition(".")[0]
    if isinstance(left, float) and isinstance(right, float) and _float32(left) == _float32(right):
        return "harmless", "the same number in float32, in which it is used"
    if root == "pad_token_id":
        return "noted", "a few architectures count positions by it; others read it in training only"
    if root in _POSITIONS:
        return _judged_positions(left, right, base, other)
    if root in _LAYERS or root in _SIZES or root == "layer_types":
        return _judged_size(root, left, right, base, other)
    if "rope" in root or "rotary" in root or root == "partial_rotary_factor":
        return "confounding", "positions are encoded differently, which changes every answer"
    unread = base.known and other.known and root not in base.known | other.known | code_settings(other.kind)
    if unread and not any(name == "auto_map" for name in (*base.settings, *other.settings)):
        return "noted", f"{other.kind} doesn't know this setting; it should change nothing"
    return "confounding", "it changes what is computed from the same weights"


def _judged_size(
    key: str, left: Any, right: Any, base: Description, other: Description
) -> tuple[Severity, str]:
    """A size that the weights confirm is compression; otherwise the same weights are used differently."""
    smaller: tuple[Severity, str] = ("noted", "the model has another size, which is compression")
    if base.weights is None or other.weights is None:
        return (
            "confounding",
            "the weights are not on this machine, so whether they have another size can't be seen",
        )
    mine, theirs = _shapes(base), _shapes(other)
    counts = [len({index[1] for name in found if (index := _INDEX.search(name))}) for found in (mine, theirs)]
    if key in _LAYERS:
        if counts[0] != counts[1]:
            return smaller
    elif key == "layer_types":
        if counts[0] != counts[1] and _is_part(left, right):
            return smaller
    else:
        shared = [name for name in mine.keys() & theirs.keys() if _SIZES[key].search(name)]
        if any(mine[name] != theirs[name] for name in shared):
            return smaller
        if key in _EXPERTS and _expert_count(mine) != _expert_count(theirs):
            return smaller
    return (
        "confounding",
        "the weights don't show it: they have the same shapes and are used differently",
    )


def _is_part(left: Any, right: Any) -> bool:
    """Whether one list equals the other with some entries removed."""
    short, long = sorted((list(left or ()), list(right or ())), key=len)
    rest = iter(long)
    return all(entry in rest for entry in short)


def _expert_count(shapes: Mapping[str, Any]) -> int:
    return len({found[1] for name in shapes if (found := re.search(r"experts\.(\d+)\.", name))})


@cache
def code_settings(kind: str) -> frozenset[str]:
    """Names of settings that the code of a model class, or the library code that it uses, reads.

    Some settings, such as `is_causal`, are read without being listed anywhere.
    """
    model = getattr(transformers, kind, None)
    modules = [] if model is None else [inspect.getmodule(model)]
    for name in (
        "masking_utils",
        "modeling_rope_utils",
        "modeling_utils",
        "cache_utils",
        "integrations.sdpa_attention",
    ):
        modules.append(importlib.import_module(f"transformers.{name}"))
    found: set[str] = set()
    for module in modules:
        if module is not None:
            for names in _READ.findall(inspect.getsource(module)):
                found.update(name for name in names if name)
    return frozenset(found)


def _judged_positions(left: Any, right: Any, base: Description, other: Description) -> tuple[Severity, str]:
    types = {
        value for each in (base, other) for key, value in each.settings.items() if key.endswith("rope_type")
    }
    if not types <= _FIXED_ROPE:
        return "confounding", "with this kind of rope the longest sequence changes how positions are encoded"
    if isinstance(left, int) and isinstance(right, int) and min(left, right) >= _LONGEST:
        return "noted", f"prompts of a run are shorter than both ({_LONGEST:,} tokens)"
    return "confounding", "long passages are cut at a different place"


def _tied(base: Description, other: Description) -> Iterator[Difference]:
    """A difference in tying the output head. A stored head is used, whatever the configuration says."""
    mine, theirs = (bool(each.settings.get("tie_word_embeddings")) for each in (base, other))
    if mine == theirs:
        return
    lost = theirs and not mine and not (other.weights and other.weights.own_head)
    yield Difference(
        "output head", "confounding" if lost else "noted", _head(mine), _head(theirs),
        "the head of base is replaced by the embeddings" if lost else
        "one has its head tied to the embeddings, and the other stores one of its own, as quantizers do",
    )  # fmt: skip


def _equal(base: Description, other: Description, key: str) -> bool:
    left, right = base.settings.get(key), other.settings.get(key)
    # NaN is not equal to itself.
    return bool(left == right) or (left != left and right != right)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<d", value)


def _shapes(description: Description) -> dict[str, tuple[int, ...]]:
    assert description.weights is not None
    return {name: shape for name, (shape, _) in description.weights.tensors.items()}


def _values(settings: Any, keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={shown(settings.get(key), 24)}" for key in keys[:4]) + (
        ", …" if len(keys) > 4 else ""
    )


def _quantization(description: Description) -> str:
    if description.quantization is None:
        return "none"
    return ", ".join(
        f"{key}={shown(value, 20)}" for key, value in sorted(description.quantization.items())[:5]
    )


def _head(tied: bool) -> str:
    return "tied to the embeddings" if tied else "of its own"
