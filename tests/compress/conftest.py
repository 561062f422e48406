"""Tiny random models of every supported family, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.calibration import CalibrationRecord, Windows

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama_biases_tied": (
        "LlamaConfig",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "qwen2": ("Qwen2Config", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "phi3": ("Phi3Config", {"pad_token_id": 0}),
    "gemma2": ("Gemma2Config", {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "olmo2": ("Olmo2Config", {"pad_token_id": 0}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "gpt2": ("GPT2Config", {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_inner": 24, "n_positions": 128}),
}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
    ),
}


def tiny_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random model: the same family and seed give the same weights."""
    name, own = {**FAMILIES, **MIXTURES}[family]
    config = getattr(transformers, name)(**{**SMALL, **own, **changes})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_test_windows(lengths: Sequence[int], *, vocabulary: int = 96, seed: int = 0) -> Windows:
    """Random token windows of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = tuple(
        tuple(torch.randint(0, vocabulary, (length,), generator=generator).tolist()) for length in lengths
    )
    record = CalibrationRecord("test", None, len(rows), 0, sum(lengths), max(lengths), 2048, None, {}, "", "")
    return Windows(rows, ("english",) * len(rows), record)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data_dir() -> Path:
    if not DATA.is_dir():
        pytest.skip("the shared data sets are not beside this checkout (../shared/data)")
    return DATA
