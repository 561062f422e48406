"""A tiny random model of every causal architecture that the installed `transformers` can build small."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from anomia.models.shrunk import NotBuiltError, tiny_model

# Where a default configuration leaves out what its architecture is named for (a mixture of one expert has no choice) or
# can't do without.
SETTINGS: dict[str, dict[str, Any]] = {
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"moe_top_k": 2},
    },
}


def kinds() -> list[str]:
    """Every model type that `AutoModelForCausalLM` knows."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(kind: str, *, seed: int = 0) -> Any:
    """A random float32 model in evaluation mode: the same weights for the same seed.

    Raises `NotBuiltError`, with what went wrong.
    """
    try:
        config = transformers.CONFIG_MAPPING[kind](**SETTINGS.get(kind, {}))
    except Exception as error:
        raise NotBuiltError(f"it has no default configuration: {type(error).__name__}") from None
    return tiny_model(config, seed=seed)
