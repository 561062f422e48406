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
