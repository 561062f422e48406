"""GPTQ's format: read as other programs read it, and loaded as what was in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.methods.grid import Grid, round_to_nearest
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.packed import tensors_of
from anomia.errors import CompressionError, ModelError
from anomia.models.gptq import dequantized
from anomia.models.load import load_model

from .test_folder import save_model, weights, write_text
from .test_gptq import random_weight
from .test_packed import step_of

SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "moe_intermediate_size": 32}


def fields(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes in a column of words [n·bits / 32, m], read as one long binary number per column: [n, m]."""
    columns = []
    for column in words.T.tolist():
        number = sum((word & 0xFFFFFFFF) << (32 * index) for index, word in enumerate(column))
        columns.append([number >> (bits * i) & (2**bits - 1) for i in range(len(column) * 32 // bits)])
    return torch.tensor(columns).T


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, None])
def test_the_layout_is_that_of_gptq(bits: int, symmetric: bool, group: int | None) -> None:
    """As `dequantize_weight` of AutoGPTQ and GPTQModel computes it: scales[g_idx] · (codes − zeros[g_idx])."""
    grid = Grid(bits, group, symmetric, torch.float16)
    quantized = round_to_nearest(
        random_weight(32, 96).abs() if not symmetric else random_weight(32, 96), grid
    )
    tensors = tensors_of(quantized, "gptq")
    assert tensors is not None
    codes, zeros = fields(tensors["qweight"], bits), fields(tensors["qzeros"].T, bits).T
    # The first version of the format, used for symmetric grids, stores zero points minus 1.
    zeros = zeros + 1 if symmetric else zeros
    assert not symmetric or (zeros == 2 ** (bits - 1)).all()
    # Weights without negative values have the zero point 0, which minus 1 would not fit.
    assert symmetric or (zeros == 0).all()
    groups = tensors["g_idx"].long()
    assert groups.tolist() == [column // (group or 96) for column in range(96)]
    values = (tensors["scales"].float()[groups] * (codes - zeros[groups])).half()
    assert torch.equal(values.T, quantized.values())
    version = "gptq" if symmetric else "gptq_v2"
    assert torch.equal(dequantized(tensors, version=version).half(), quantized.values())


def test_columns_of_any_order_are_read() -> None:
    """Other programs store the columns of act-order with groups that aren't consecutive."""
    quantized = round_to_nearest(random_weight(32, 64), Grid(4, 32, True, torch.float16))
    tensors = tensors_of(quantized, "gptq")
    assert tensors is not None
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    moved = quantized._replace(codes=quantized.codes[:, order])
    shuffled = tensors_of(moved, "gptq")
    assert shuffled is not None
    values = dequantized(shuffled | {"g_idx": tensors["g_idx"][order]}, version="gptq")
    assert torch.equal(values.half(), quantized.values()[:, order])


@pytest.mark.parametrize(
    ("family", "step", "dtype"),
    [
        ("llama", "gptq:4,group=32", "float32"),
        ("llama_biases_tied", "gptq:3,group=32,symmetric=no,order=plain", "bfloat16"),
        ("gemma3", "awq:2,group=16", "float16"),
        ("phi3", "gptq:8,group=16", "float32"),
    ],
)
def test_a_folder_loads_as_what_was_in_memory(family: str, step: str, dtype: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "in", **SIZES)
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=12)
    report = compress_folder(
        str(tmp_path / "in"), tmp_path / "out", [step_of(step)],
        FolderOptions(text=text, dtype=dtype, save_as="gptq"),
    )  # fmt: skip
    assert report.streamed
    assert {name.rpartition(".")[2] for name in weights(tmp_path / "out") if "down_proj" in name} >= {
        "qweight", "qzeros", "scales", "g_idx",
    }  # fmt: skip
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert settings == json.loads((tmp_path / "out" / "quantize_config.json").read_text())
    symmetric = step_of(step).option("symmetric")
    assert settings["sym"] == symmetric
    assert settings["checkpoint_format"] == ("gptq" if symmetric else "gptq_v2")
    assert "modules_in_block_to_quantize" not in settings
    dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=getattr(torch, dtype))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    compress(dense, step_of(step), prepare_windows(step_of(step), tokenizer, text))
    loaded = load_model(str(tmp_path / "out"), device="cpu").model
    assert loaded.dtype is getattr(torch, dtype)
    expected = dense.state_dict()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_matrices_that_do_not_fill_words_stay_dense_with_a_note(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in", **SIZES | {"intermediate_size": 68})
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=12)
    report = compress_folder(
        str(tmp_path / "in"), tmp_path / "out", [step_of("gptq:4,group=4")],
        FolderOptions(text=text, save_as="gptq"),
    )  # fmt: skip
    assert any("stored dequantized: 9 parameters" in warning for warning in report.compression.warnings)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert settings["block_name_to_quantize"] == "model.layers"
    assert settings["modules_in_block_to_quantize"] == [[f"self_attn.{name}_proj" for name in "koqv"]]
    load_model(str(tmp_path / "out"), device="cpu")


@pytest.mark.parametrize(
    ("family", "step", "save_as", "message"),
    [
        ("mixtral", "gptq:4,group=32", "gptq", "can't be stored as gptq: transformers merges it"),
        ("mixtral", "gptq:4,group=32,symmetric=no", "compressed-tensors", "drops their zero points; symmetric=yes"),
        ("gpt2", "gptq:4,group=8", "gptq", "isn't a linear layer"),
    ],
)  # fmt: skip
def test_what_could_not_be_loaded_is_refused(
    family: str, step: str, save_as: Any, message: str, tmp_path: Path
) -> None:
    save_model(family, tmp_path / "in", **({} if family == "gpt2" else SIZES))
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=12)
    with pytest.raises(CompressionError, match=message) as refused:
        compress_folder(
            str(tmp_path / "in"), tmp_path / "out", [step_of(step)],
            FolderOptions(text=text, save_as=save_as),
        )  # fmt: skip
    assert f"leave out --save-as {save_as}" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_another_layout_is_refused(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in", **SIZES)
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=12)
    compress_folder(
        str(tmp_path / "in"), tmp_path / "out", [step_of("gptq:4,group=32")],
        FolderOptions(text=text, save_as="gptq"),
    )  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["quantization_config"]["checkpoint_format"] = "marlin"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="the layout 'marlin'"):
        load_model(str(tmp_path / "out"), device="cpu")
