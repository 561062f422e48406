"""Content of GGUF files that transformers' reader ignores: tensors without a place, and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers import modeling_gguf_pytorch_utils as gguf_utils

from anomia.errors import ModelError
from anomia.models.gguf_header import read_gguf_header, read_gguf_settings
from anomia.models.sizes import layers_of

# Tensors that llama.cpp uses, for architectures whose names the reader doesn't list itself.
_USED = re.compile(r"\.bias$|^rope_(freqs|factors_long|factors_short)\.weight$")
# Frequencies that are determined by the settings.
_SILENT = re.compile(r"(attn_rot_embd|rotary_emb)\.\w*freqs?$")
_PREDICTION = re.compile(r"\.nextn\.|(^|\.)mtp(_\w+)?\.")
_BLOCK = re.compile(r"^blk\.(\d+)\.")
# Settings that llama.cpp uses, by the end of the key, and the fields of transformers' configuration for them.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "attention.sliding_window": ("sliding_window",),
    "attention.clamp_kqv": ("clip_qkv",),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "expert_weights_scale": ("routed_scaling_factor",),
}


class Unread(NamedTuple):
    """Settings that the model ignores. rope: of rotary positions. others: all others, to be reported."""

    rope: dict[str, Any]
    others: dict[str, Any]


def gguf_places(model: Any) -> dict[str, str] | None:
    """The GGUF tensor names that the reader takes, mapped to the model's; None if the reader lists none."""
    text = model.config.get_text_config()
    try:
        found: dict[str, str] = gguf_utils.get_gguf_hf_weights_map(model, _processor(text))
    except NotImplementedError:
        return None
    return found


def homeless(path: Path, model: Any) -> list[str]:
    """Tensors of a GGUF file that loading drops and other programs use."""
    places, header = gguf_places(model), read_gguf_header(path)
    if places is None:
        names = {name for name in header if _USED.search(name)}
    else:
        names = set(header) - places.keys() - _taken_apart(model, header)
        names = {name for name in names if not _SILENT.search(name)}
    layers = layers_of(model.config) or 0
    heads = int(read_gguf_settings(path).get("nextn_predict_layers", 0) or 0)
    return sorted(
        name
        for name in names
        if not (name.startswith("rope_") and rope_scaled(model.config))
        and not (heads and (_PREDICTION.search(name) or _of_block(name, layers, layers + heads)))
    )


def unread_settings(path: Path, config: Any) -> Unread:
    """Settings of a GGUF file that the configuration made from it doesn't reflect, by the end of the key."""
    settings, text = read_gguf_settings(path), config.get_text_config()
    rope = {
        key: value for key, value in settings.items() if key.startswith("rope.scaling.") and value is not None
    }
    # Defaults of llama.cpp: linear scaling, with the factor under its older name.
    if (older := settings.get("rope.scale_linear")) is not None and "rope.scaling.factor" not in rope:
        rope["rope.scale_linear"] = older
    factor = rope.get("rope.scaling.factor", rope.get("rope.scale_linear"))
    kind = rope.get("rope.scaling.type", "linear")
    idle = kind == "none" or (kind == "linear" and factor in (None, 0, 1)) or rope_scaled(config)
    others = {
        key: settings[key]
        for key, fields in _FIELDS.items()
        if key in settings and not any(_same(settings[key], getattr(text, field, None)) for field in fields)
    }
    return Unread({} if idle else rope, others)


def refuse_settings(name: str, path: Path, config: Any) -> tuple[str, ...]:
    """Notes on settings that are ignored.

    Raises:
        ModelError: the file scales rotary positions and the model would not.
    """
    unread = unread_settings(path, config)
    if unread.rope:
        raise ModelError(
            f"model: {name!r} scales rotary positions ({_written(unread.rope)}), which transformers' reader of GGUF "
            "files ignores, so this would not be the model that its users get; serve the file with llama.cpp and "
            "measure it as an endpoint: arm, or take the folder that it was made from"
        )
    if not unread.others:
        return ()
    return (
        f"the file sets {_written(unread.others)}, which transformers' reader of GGUF files ignores and llama.cpp may "
        "compute with",
    )


def with_ends(generation: Any, path: Path) -> Any:
    """Makes generation stop at every end token of a GGUF file: its end of text, of turn, and of message."""
    settings = read_gguf_settings(path)
    keys = ("eos", "eot", "eom")
    ends = [settings[key] for name in keys if (key := f"tokenizer.ggml.{name}_token_id") in settings]
    if len(set(ends)) > 1:
        generation.eos_token_id = list(dict.fromkeys(ends))
    return generation


def rope_scaled(config: Any) -> bool:
    """Whether a configuration scales rotary frequencies."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type", "default") != "default" for kind in kinds)


def _processor(text: Any) -> Any:
    kind = {"gemma3_text": "gemma3", "gemma4_text": "gemma4"}.get(text.model_type, text.model_type)
    return gguf_utils.TENSOR_PROCESSORS.get(kind, gguf_utils.TensorProcessor)(config=text.to_dict())


def _taken_apart(model: Any, names: Mapping[str, Any]) -> set[str]:
    """Tensors that the reader splits or joins itself, such as the experts of an MoE."""
    kind = type(_processor(model.config.get_text_config()))
    patterns = [value for key in dir(kind) if isinstance(value := getattr(kind, key), re.Pattern)]
    return {name for name in names if any(pattern.search(name) for pattern in patterns)}


def _of_block(name: str, first: int, end: int) -> bool:
    block = _BLOCK.match(name)
    return block is not None and first <= int(block[1]) < end


def _same(left: Any, right: Any) -> bool:
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    return bool(abs(left - right) <= 1e-6 * max(1.0, abs(left))) if numbers else left == right


def _written(settings: Mapping[str, Any]) -> str:
    return ", ".join(written(key, value) for key, value in sorted(settings.items()))


def written(key: str, value: Any) -> str:
    """A setting as text; floats without digits beyond float32 precision."""
    return f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
