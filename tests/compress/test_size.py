from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.methods.quantize import group_of
from anomia.compress.size import files_bytes, packed_bytes, stored_bytes, tensor_bytes
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Quantize

from .conftest import FAMILIES, MIXTURES, make_test_windows, tiny_model

EVEN = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}


def without_headers(folder: Path) -> int:
    """Bytes of the tensors alone: a safetensors file begins with the length of its header and the header."""
    return sum(
        file.stat().st_size - 8 - int.from_bytes(file.read_bytes()[:8], "little")
        for file in folder.glob("*.safetensors")
    )


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_a_dense_model_takes_what_its_saved_file_takes(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    assert stored_bytes(model) == tensor_bytes(model) == without_headers(tmp_path)


def test_pruning_saves_nothing_and_half_precision_saves_half(tmp_path: Path) -> None:
    model = tiny_model("llama")
    whole = stored_bytes(model)
    step = parse_arm("wanda:0.5").steps[0]
    report = compress(model, step, make_test_windows([30, 20]))
    assert stored_bytes(model, [step]) == whole == report.size_bytes
    model.save_pretrained(tmp_path)
    assert without_headers(tmp_path) == whole
    assert stored_bytes(model.bfloat16()) == whole // 2


@pytest.mark.parametrize("text", ["int8", "int8:group=64"])
def test_int8_takes_what_torchao_keeps(text: str) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model, dense = tiny_model("llama", **EVEN), tiny_model("llama", **EVEN)
    step = parse_arm(text).steps[0]
    assert isinstance(step, Quantize)
    report = compress(model, step)
    group = group_of(step)
    config = torchao.IntxWeightOnlyConfig(
        weight_dtype=torch.int8,
        granularity=torchao.PerAxis(0) if group is None else torchao.PerGroup(group),
    )
    kept = tensor_bytes(dense)
    for block in find_blocks(dense).modules:
        for module in block.modules():
            if isinstance(module, torch.nn.Linear):
                kept -= module.weight.nbytes
                torchao.quantize_(module, config)
                # A symmetric type has no use for the zero points that torchao keeps, too.
                kept += module.weight.qdata.nbytes + module.weight.scale.nbytes
    assert report.size_bytes == kept


@pytest.mark.parametrize(("method", "kind"), [("int8", "Q8_0"), ("int4", "Q4_0")])
def test_packed_integers_take_what_gguf_takes(method: str, kind: str) -> None:
    values = np.random.default_rng(0).standard_normal((24, 96), dtype=np.float32)
    stored = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    assert packed_bytes(24, 96, Quantize(method, options=(("group", 32),))) == stored.nbytes


def test_fewer_bits_take_less_and_a_chain_takes_what_its_quantization_takes() -> None:
    pytest.importorskip("torchao.quantization")
    sizes = {}
    for text in ("int8", "int4", "int3", "int2", "wanda:0.5+int4"):
        model = tiny_model("llama", **EVEN)
        for step in parse_arm(text).steps:
            report = compress(model, step, make_test_windows([30]))
        sizes[text] = report.size_bytes
    assert sizes["int8"] > sizes["int4"] > sizes["int3"] > sizes["int2"]
    assert sizes["wanda:0.5+int4"] == sizes["int4"]


def test_nf4_takes_half_a_byte_and_a_float_for_64_weights() -> None:
    assert packed_bytes(16, 128, Quantize("nf4")) == 16 * 128 // 2 + 16 * 2 * 4


def test_a_packed_checkpoint_counts_its_files(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sum((tmp_path / name).stat().st_size for name in set(index["weight_map"].values()))
    (tmp_path / "other.safetensors").write_bytes(b"not of this model")
    assert files_bytes(str(tmp_path)) == files
    model.config.quantization_config = {"quant_method": "gptq"}
    assert stored_bytes(model, source=str(tmp_path)) == files
    packed = tmp_path / "model.gguf"
    packed.write_bytes(b"x" * 1000)
    assert stored_bytes(tiny_model("llama"), source=str(packed)) == 1000
    # What is pruned out of it is stored dense again.
    step = parse_arm("magnitude:0.5").steps[0]
    assert stored_bytes(tiny_model("llama"), [step], source=str(packed)) == tensor_bytes(model)
    assert files_bytes(str(tmp_path / "none")) is None


def test_tied_weights_count_once() -> None:
    tied = transformers.AutoModelForCausalLM.from_config(tiny_model("llama", tie_word_embeddings=True).config)
    untied = tiny_model("llama", tie_word_embeddings=False)
    assert tensor_bytes(untied) - tensor_bytes(tied) == untied.lm_head.weight.nbytes
