"""What only a loaded model shows: what its files hold and it does not compute with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import modeling_gguf_pytorch_utils as gguf_utils
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from anomia.models.gguf_header import read_gguf_header
from anomia.models.headers import StoredTensor, opened
from anomia.models.tensors import Account

# In a GGUF file, names of what llama.cpp computes with and transformers may pass over.
_GGUF_USED = re.compile(r"\.bias$|^rope_(freqs|factors_long|factors_short)\.weight$")
_ROTARY = 0.02


def was_unpacked(config: Any, model: Any) -> bool:
    """Whether a quantization method took the weights: it is still there, or is done and has removed its settings.

    Args:
        config: before loading. model: after it.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return True
    return _method(config) is not None and _method(model.config) is None


def quantization_note(config: Any, model: Any) -> tuple[str, ...]:
    """A word where the configuration names a quantization method that was not applied. config: before loading."""
    method = _method(config)
    if method is None or was_unpacked(config, model):
        return ()
    return (
        f"config.json names a quantization method ({method}) that transformers does not know; the weights are used as"
        " they are stored",
    )


def is_unpacked_on_loading(config: Any) -> bool:
    """Whether a configuration names a quantization method that transformers knows; others are passed over."""
    return _method(config) in AUTO_QUANTIZATION_CONFIG_MAPPING


def _method(config: Any) -> str | None:
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    return str(settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method)


def untied_note(model: Any, stored: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    """A word where the configuration ties the head to the embeddings and the files hold two different ones."""
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
    """A word where stored rotary frequencies are not the ones that the configuration leads to."""
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
    """Adds what a GGUF file holds and transformers' reader passed over, where the model would compute with it."""
    names = {name for name in read_gguf_header(path) if _GGUF_USED.search(name)} - _taken(model)
    scaled = {name for name in (*names, *found.surplus) if name.startswith("rope_") and _rope_scaled(model)}
    surplus = {**found.surplus, **{name: name for name in names}}
    return found._replace(surplus={name: name for name in sorted(surplus) if name not in scaled})


def _rope_scaled(model: Any) -> bool:
    """Whether the configuration scales rotary frequencies, so that the factors in a file are in it."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type", "default") != "default" for kind in kinds)


def _taken(model: Any) -> set[str]:
    """The tensors of a GGUF file that transformers has a place for."""
    text = model.config.get_text_config()
    kind = {"gemma3_text": "gemma3", "gemma4_text": "gemma4"}.get(text.model_type, text.model_type)
    processor = gguf_utils.TENSOR_PROCESSORS.get(kind, gguf_utils.TensorProcessor)(config=text.to_dict())
    try:
        names: dict[str, str] = gguf_utils.get_gguf_hf_weights_map(model, processor)
    except NotImplementedError:
        # An architecture of the newer reader, which names what it has no place for.
        return set()
    return set(names)
