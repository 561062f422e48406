"""Short hashes of models and tokenizers: runs are comparable only if they agree."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import xxhash

from anomia.models.tokenization import Tokenization, describe_tokenizer

_SAMPLED = 1 << 16
_VERSION = "2-"


def fingerprint_weights(model: Any) -> str:
    """A hash of the names, shapes, dtypes and all values of a state dict. It starts with its version, `2-`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(xxhash.xxh3_128_digest(raw_bytes(tensor.detach())))
    return _VERSION + digest.hexdigest()[:16]


def is_same_weights(fingerprint: object, now: str, model: Any) -> bool:
    """Whether a model matches a stored fingerprint of any version. now: its fingerprint in this version."""
    return fingerprint == (now if is_this_version(fingerprint) else fingerprint_weights_1(model))


def is_this_version(fingerprint: object) -> bool:
    """Whether a stored fingerprint has the current version."""
    return str(fingerprint).startswith(_VERSION)


def fingerprint_weights_1(model: Any) -> str:
    """Version 1 of the fingerprint, as in older runs: about 65,536 evenly spaced values of each tensor.

    It is weaker: if the spacing is a multiple of a matrix's width, or divides it, the values come from few columns.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        digest.update(raw_bytes(flat[:: max(1, flat.numel() // _SAMPLED)]))
    return digest.hexdigest()[:16]


def raw_bytes(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor without gradients as a NumPy array, [bytes] uint8, in row-major order."""
    return tensor.to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """A hash of everything that changes token ids or their decoding. It starts with its version, `2-`.

    It covers the vocabulary, the backend, special tokens, the chat template, and the ids of `PROBE_TEXTS`.
    """
    return fingerprint_of(describe_tokenizer(tokenizer), tokenizer)


def fingerprint_of(found: Tokenization, tokenizer: Any) -> str:
    """The fingerprint of a tokenizer that has already been described."""
    return _digest(
        {
            "parts": dict(found.parts),
            # The backend's hash covers the vocabulary.
            "vocabulary": None if "backend" in found.parts else sorted(found.vocabulary.items()),
            "special": dict(found.special),
            "chat_template": getattr(tokenizer, "chat_template", None),
            # A random tokenizer has no fixed ids.
            "ids": None if found.random else [dict(found.ids), dict(found.bare), dict(found.texts)],
        }
    )


def fingerprint_token_ids(tokenizer: Any) -> str:
    """A hash of what token ids mean: the vocabulary alone, whatever chat template or special tokens are added."""
    return _digest(sorted(tokenizer.get_vocab().items()))


def _digest(description: object) -> str:
    text = json.dumps(description, sort_keys=True, default=str)
    return _VERSION + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_same_tokenizer(fingerprint: str, tokenizer: Any) -> bool:
    """Whether a tokenizer matches a stored fingerprint of this or an earlier version.

    Version 1 is weaker: it covers only the vocabulary, special tokens and chat template.
    """
    now = fingerprint_tokenizer if fingerprint.startswith(_VERSION) else fingerprint_tokenizer_1
    return fingerprint == now(tokenizer)


def fingerprint_tokenizer_1(tokenizer: Any) -> str:
    """Version 1 of the fingerprint, as in older runs: vocabulary, special tokens and chat template."""
    description = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": tokenizer.special_tokens_map,
        "chat_template": getattr(tokenizer, "chat_template", None),
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:16]


def architecture(model: Any) -> str:
    """A hash of the model's class and configuration, without the settings on where or how it is stored."""
    config = model.config.to_dict()
    for key in ("_name_or_path", "name_or_path", "dtype", "transformers_version", "quantization_config"):
        config.pop(key, None)
    description = json.dumps([type(model).__name__, config], sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()[:16]
