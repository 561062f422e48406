"""What a model is, as a short hash: two runs compare only where these agree."""

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
    """A hash of all parameter names, shapes and types and of every value. It begins with `2-`, its version."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(xxhash.xxh3_128_digest(_bytes(tensor.detach())))
    return _VERSION + digest.hexdigest()[:16]


def is_same_weights(fingerprint: object, now: str, model: Any) -> bool:
    """Whether a model has the weights of a stored fingerprint, which may be of an earlier version. now: the model's."""
    return fingerprint == (now if is_this_version(fingerprint) else fingerprint_weights_1(model))


def is_this_version(fingerprint: object) -> bool:
    """Whether a stored fingerprint was taken as they are taken now."""
    return str(fingerprint).startswith(_VERSION)


def fingerprint_weights_1(model: Any) -> str:
    """Version 1 of the fingerprint, as older runs store it: up to 65,536 evenly spaced values of each tensor.

    In a matrix whose width the spacing divides these are always the same columns, so it tells less.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        digest.update(_bytes(flat[:: max(1, flat.numel() // _SAMPLED)]))
    return digest.hexdigest()[:16]


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """A hash of everything that changes token ids or how they are read: the vocabulary, the whole backend, what is put
    around a text, special tokens, the chat template, and the ids of `PROBE_TEXTS`. It begins with `2-`, its version.
    """
    return fingerprint_of(describe_tokenizer(tokenizer), tokenizer)


def fingerprint_of(found: Tokenization, tokenizer: Any) -> str:
    """The fingerprint of a tokenizer that is described already."""
    description = {
        "parts": dict(found.parts),
        # A backend's part holds the vocabulary.
        "vocabulary": None if "backend" in found.parts else sorted(found.vocabulary.items()),
        "special": dict(found.special),
        "chat_template": getattr(tokenizer, "chat_template", None),
        # A tokenizer that draws lots has no ids of its own.
        "ids": None if found.random else [dict(found.ids), dict(found.bare), dict(found.texts)],
    }
    text = json.dumps(description, sort_keys=True, default=str)
    return _VERSION + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_same_tokenizer(fingerprint: str, tokenizer: Any) -> bool:
    """Whether a tokenizer is the one of a stored fingerprint, which may be of an earlier version.

    Fingerprints of version 1 know the vocabulary, special tokens and template only, so they tell less.
    """
    now = fingerprint_tokenizer if fingerprint.startswith(_VERSION) else fingerprint_tokenizer_1
    return fingerprint == now(tokenizer)


def fingerprint_tokenizer_1(tokenizer: Any) -> str:
    """Version 1 of the fingerprint, as older runs store it: vocabulary, special tokens and chat template."""
    description = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": tokenizer.special_tokens_map,
        "chat_template": getattr(tokenizer, "chat_template", None),
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:16]


def architecture(model: Any) -> str:
    """A hash of the model's class and of its configuration, without what tells where or how it is stored."""
    config = model.config.to_dict()
    for key in ("_name_or_path", "name_or_path", "dtype", "transformers_version", "quantization_config"):
        config.pop(key, None)
    description = json.dumps([type(model).__name__, config], sort_keys=True, default=str)
    return hashlib.sha256(description.encode()).hexdigest()[:16]
