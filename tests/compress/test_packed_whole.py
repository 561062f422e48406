"""Packed checkpoints of models that are compressed as a whole, and of chains: loaded as what is stored dense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.errors import CompressionError
from anomia.models.load import load_model
from tests.models.test_adapters import factors, write

from .architectures import tiny
from .test_folder import TOKENIZER, save_adapter, save_model, weights, write_text
from .test_gguf import write_tiny_gguf

IDS = torch.arange(3, 43)[None]


def save(kind: str, out: Path) -> None:
    tiny(kind).save_pretrained(out)
    (out / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (out / "tokenizer_config.json").write_text(json.dumps(settings))


def both(model: Path, chain: str, save_as: Any, out: Path) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """The tensors of a model stored dense and packed, as they are loaded, and whether it was packed block by block."""
    text = TextOptions(source=write_text(out / "text.txt"), samples=6)
    steps = parse_arm(chain).steps
    compress_folder(str(model), out / "dense", steps, FolderOptions(text=text))
    report = compress_folder(str(model), out / "packed", steps, FolderOptions(text=text, save_as=save_as))
    dense = transformers.AutoModelForCausalLM.from_pretrained(out / "dense").eval()
    if save_as == "gptq":
        packed = load_model(str(out / "packed"), device="cpu").model
    else:
        packed = transformers.AutoModelForCausalLM.from_pretrained(out / "packed").eval()
    with torch.no_grad():
        logits = [model(input_ids=IDS, use_cache=False).logits for model in (dense, packed)]
    assert torch.equal(*logits)
    return dense.state_dict(), packed.state_dict(), report.streamed


def check_equal(dense: dict[str, Any], packed: dict[str, Any]) -> None:
    assert dense.keys() == packed.keys()
    for name, value in dense.items():
        assert torch.equal(value, packed[name]), name


def adapt(name: str, base: Path, out: Path) -> None:
    """Write an adapter on one matrix of a model in a folder."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    write(
        out, factors(model, [name]), target_modules=f".*{name}", base_model_name_or_path=str(base),
        fan_in_fan_out="transformer.h" in name,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "save_as"),
    [
        ("qwen2_moe", "compressed-tensors"),
        ("jamba", "compressed-tensors"),
        ("deepseek_v2", "compressed-tensors"),
        ("longcat_flash", "compressed-tensors"),
        ("zamba2", "compressed-tensors"),
        ("zamba2", "gptq"),
    ],
)
def test_a_model_compressed_as_a_whole_can_be_packed(kind: str, save_as: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    save(kind, tmp_path / "in")
    dense, packed, streamed = both(tmp_path / "in", "gptq:4,group=8", save_as, tmp_path)
    check_equal(dense, packed)
    assert not streamed
    mark = "qweight" if save_as == "gptq" else "weight_packed"
    stored = {name for name in weights(tmp_path / "packed") if name.endswith(mark)}
    assert stored
    assert kind == "zamba2" or any("experts" in name for name in stored)


def test_what_transformers_splits_is_refused(tmp_path: Path) -> None:
    save("hrm_text", tmp_path / "in")
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=6)
    for save_as, why in (("compressed-tensors", "transformers splits"), ("gptq", "transformers merges")):
        with pytest.raises(CompressionError, match=why):
            compress_folder(
                str(tmp_path / "in"), tmp_path / "out", parse_arm("gptq:4,group=8").steps,
                FolderOptions(text=text, save_as=save_as),
            )  # fmt: skip
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("save_as", ["compressed-tensors", "gptq"])
def test_an_adapter_can_be_packed(save_as: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    save_adapter(save_model("llama", tmp_path / "base"), tmp_path / "lora", tmp_path / "base")
    dense, packed, streamed = both(tmp_path / "lora", "gptq:4,group=8", save_as, tmp_path)
    check_equal(dense, packed)
    assert not streamed


@pytest.mark.parametrize(
    ("family", "name", "save_as", "changes"),
    [
        ("gpt2", "transformer.h.0.attn.c_proj", "compressed-tensors", {}),
        ("gpt2", "transformer.h.0.attn.c_attn", "gptq", {}),
        ("llama", "model.layers.0.self_attn.q_proj", "gptq", {"hidden_size": 20, "intermediate_size": 36}),
    ],
)
def test_an_adapter_of_which_nothing_can_be_packed_is_refused_before_any_work(
    family: str, name: str, save_as: Any, changes: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    save_model(family, tmp_path / "base", **changes)
    adapt(name, tmp_path / "base", tmp_path / "lora")
    options = FolderOptions(
        text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=6), save_as=save_as
    )
    with pytest.raises(CompressionError, match=f"no matrix of this model can be stored as {save_as}"):
        compress_folder(str(tmp_path / "lora"), tmp_path / "out", parse_arm("gptq:4,group=4").steps, options)
    assert not (tmp_path / "out").exists()


def test_matrices_of_an_adapter_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "base", hidden_size=32, intermediate_size=36)
    adapt("model.layers.0.self_attn.q_proj", tmp_path / "base", tmp_path / "lora")
    dense, packed, _ = both(tmp_path / "lora", "gptq:4,group=4", "gptq", tmp_path)
    check_equal(dense, packed)
    warnings = json.loads((tmp_path / "packed" / "anomia.json").read_text())["compression"]["warnings"]
    notes = [note for note in warnings if note.startswith("stored dequantized")]
    assert len(notes) == 1
    assert notes[0].startswith("stored dequantized: 9 parameters (model.layers.0.mlp.")
    assert sum(name.endswith("qweight") for name in weights(tmp_path / "packed")) == 12


@pytest.mark.parametrize("save_as", ["compressed-tensors", "gptq"])
def test_only_the_linear_layers_of_an_adapted_xlnet_are_packed(save_as: Any, tmp_path: Path) -> None:
    """Its attention matrices are parameters of three dimensions."""
    pytest.importorskip("compressed_tensors")
    save("xlnet", tmp_path / "base")
    adapt("transformer.layer.0.ff.layer_1", tmp_path / "base", tmp_path / "lora")
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=6)
    report = compress_folder(
        str(tmp_path / "lora"), tmp_path / "out", parse_arm("gptq:4,group=8").steps,
        FolderOptions(text=text, save_as=save_as),
    )  # fmt: skip
    notes = [note for note in report.compression.warnings if "stored dequantized" in note]
    assert len(notes) == 1
    assert "10 parameters (transformer.layer.0.rel_attn.q, …: it isn't a linear layer)" in notes[0]


def test_a_gguf_file_can_be_packed(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    write_tiny_gguf(tmp_path / "tiny.gguf")
    dense, packed, streamed = both(
        tmp_path / "tiny.gguf", "awq:4,group=8,symmetric=yes", "compressed-tensors", tmp_path
    )
    check_equal(dense, packed)
    assert not streamed


@pytest.mark.parametrize("save_as", ["compressed-tensors", "gptq"])
@pytest.mark.parametrize("chain", ["wanda:0.5+gptq:4,group=8+embeddings:q8_0", "shortgpt:0.34+awq:4,group=8"])
def test_a_chain_can_be_packed(chain: str, save_as: str, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    save_model("llama", tmp_path / "in", hidden_size=32)
    dense, packed, streamed = both(tmp_path / "in", chain, save_as, tmp_path)
    check_equal(dense, packed)
    assert streamed
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == save_as
