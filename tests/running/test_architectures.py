"""Whole runs of architectures whose configurations have lists, or fields of each layer, where others have a number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.errors import ModelError
from anomia.measure.results import read_results
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "gemma3n_text": {
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 4,
    },
    "gemma4_text": {"intermediate_size": 48, "global_head_dim": 16, "enable_moe_block": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(OWN))
def test_a_whole_run(kind: str, tokenizer: Any, tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    vocabulary = len(tokenizer)
    config = transformers.CONFIG_MAPPING[kind](
        **SIZES, **OWN[kind], vocab_size=vocabulary, vocab_size_per_layer_input=vocabulary
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    study = Study(
        base=str(tmp_path / "model"),
        arms=("magnitude:0.5", "wanda:0.5"),
        data=f"jsonl:{write_jsonl([entry(n) for n in range(12)])}",
        limit=6,
        max_new_tokens=4,
        num_samples=2,
        oracle_limit=2,
        noise_items=2,
        dtype="float32",
        calibration="demo",
        calibration_samples=4,
    )
    run_study(study, tmp_path / "run", progress=PlainProgress(lambda text: None))
    assert read_results(tmp_path / "run").failed == {}
    assert len(RunFolder(tmp_path / "run").records()) == 18


def test_a_table_that_lacks_tokens_is_one_message(
    tokenizer: Any, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    config = transformers.CONFIG_MAPPING["gemma4_text"](
        **SIZES, **OWN["gemma4_text"], vocab_size=len(tokenizer), vocab_size_per_layer_input=100
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    study = Study(
        base=str(tmp_path / "model"), arms=("magnitude:0.5",), data=f"jsonl:{write_jsonl([entry(n) for n in range(5)])}",
        probes=("open",), dtype="float32",
    )  # fmt: skip
    with pytest.raises(ModelError, match="fewer rows than its tokenizer has tokens"):
        run_study(study, tmp_path / "run", progress=PlainProgress(lambda text: None))
