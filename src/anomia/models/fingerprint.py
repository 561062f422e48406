"""What a model is, as a short hash: two runs compare only where these agree."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

# Any compression changes far more than one in a million weights of a matrix.
_SAMPLED = 1 << 16


def fingerprint_weights(model: Any) -> str:
    """A hash of all parameter names, shapes and types and of up to 65,536 evenly spaced values of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // _SAMPLED)
        digest.update(flat[::stride].to("cpu").contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """A hash of the vocabulary, the special tokens and the chat template."""
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
