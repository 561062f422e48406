"""Checks of a loaded model: content of its files that it doesn't use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from anomia.errors import ModelError
from anomia.models.gguf_rules import homeless, rope_scaled
from anomia.models.headers import FLOATS, StoredTensor, opened
from anomia.models.tensors import SCALE, Account

_ROTARY = 0.02


def was_unpacked(config: Any, model: Any) -> bool:
    """Whether a quantization method handled the weights: it is still active, or has removed its settings when done.

    Args:
        config: the configuration before loading.
        model: the loaded model.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return True
    return quantization_method(config) is not None and quantization_method(model.config) is None


def quantization_note(config: Any, model: Any) -> tuple[str, ...]:
    """A note if the configuration names a quantization method that was not applied. config: before loading.

    Raises:
        ModelError: transformers doesn't know the method, and would take whatever is stored as dense weights.
    """
    method = quantization_method(config)
    if method is None or was_unpacked(config, model):
        return ()
    if not type(model).__module__.startswith("transformers_modules"):
        check_method(config)
    return (
        f"config.json names a quantization method ({method}) that was not applied; the weights are used as stored",
    )


def check_method(config: Any) -> None:
    """Refuses a quantization method that transformers doesn't know, for a model class from transformers itself."""
    method = quantization_method(config)
    if method is not None and not is_unpacked_on_loading(config):
        raise ModelError(
            f"model: config.json names the quantization method {method!r}, which transformers does not know, so what "
            "is stored would be taken as dense weights. Serve it with a program that knows the method and name it as "
            "endpoint:URL#MODEL, or remove quantization_config from config.json if the weights are dense"
        )


def unquantized_note(config: Any, stored: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """A note if the configuration names a quantization method but the files contain plain floats without scales."""
    method = quantization_method(config)
    if method is None or not is_unpacked_on_loading(config) or not stored:
        return ()
    if any(info.dtype not in FLOATS or SCALE.search(name) for name, info in stored.items()):
        return ()
    return (
        f"config.json names a quantization method ({method}), and the weights in the files are not quantized; remove"
        " quantization_config if they are the dense model, else copy the quantized weights",
    )


def is_unpacked_on_loading(config: Any) -> bool:
    """Whether a configuration names a quantization method that transformers knows; it ignores others."""
    method = quantization_method(config) or ""
    return method in AUTO_QUANTIZATION_CONFIG_MAPPING or method == "bitsandbytes"


def quantization_method(config: Any) -> str | None:
    """Return the quantization method of a configuration: None without one, `unnamed` if its settings name none."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    named = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
    return str(named or "unnamed")


def untied_note(model: Any, stored: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """A note if the configuration ties the head to the embeddings but the files contain two different ones."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    if not getattr(config, "tie_word_embeddings", False) or head is None or not stored:
        return ()
    if head.weight is model.get_input_embeddings().weight:
        return ()
    return (
        "config.json ties the output head to the embeddings, but the files hold two different ones; both are used,"
        " and other programs may use one",
    )


def rotary_note(model: Any, stored: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """A note if stored rotary frequencies, [rotated dimensions / 2], differ from those of the configuration.

    stored: headers of the stored tensors by name; only the frequencies are read.
    """
    computed = [buffer.float().cpu() for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    for name, info in stored.items():
        if not name.endswith("inv_freq") or not computed:
            continue
        with opened(info.file) as file:
            values: torch.Tensor = file.get_tensor(name).float()
        if not any(
            values.shape == one.shape and torch.allclose(values, one, rtol=_ROTARY) for one in computed
        ):
            return (
                f"the rotary frequencies in the files ({name}) are not used, and differ from those that config.json"
                " leads to; see whether its rope settings are this model's",
            )
    return ()


def with_gguf(found: Account, model: Any, path: Path) -> Account:
    """Adds tensors of a GGUF file that transformers' reader ignores and other programs use."""
    scaled = {name for name in found.surplus if name.startswith("rope_") and rope_scaled(model.config)}
    surplus = {**found.surplus, **{name: name for name in homeless(path, model)}}
    return found._replace(surplus={name: name for name in sorted(surplus) if name not in scaled})
