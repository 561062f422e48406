"""Weights stored in several types are computed in the one in which transformers loads them, and written as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.errors import CompressionError

from .conftest import make_test_windows, tiny_model
from .test_folder import save_model, step_of, weights, write_text


def save_mixed(folder: Path, block: int, dtype: torch.dtype = torch.bfloat16) -> None:
    save_model("llama", folder)
    file = folder / "model.safetensors"
    tensors = {
        name: value.to(dtype) if f"layers.{block}." in name and value.dim() == 2 else value
        for name, value in load_file(file).items()
    }
    save_file(tensors, file, {"format": "pt"})


def loaded_and_compressed(tmp_path: Path, arm: str) -> dict[str, torch.Tensor]:
    """What the arm makes of the model as transformers loads it."""
    step, source = step_of(arm), f"file:{tmp_path / 'text.txt'}"
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    compress(model, step, prepare_windows(step, tokenizer, TextOptions(source=source)))
    return dict(model.state_dict())


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "gptq:4,group=8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_block_in_another_type_is_computed_as_transformers_loads_it(
    block: int, arm: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """The configuration says float32."""
    save_mixed(tmp_path / "in", block, dtype)
    source = write_text(tmp_path / "text.txt")
    options = FolderOptions(text=TextOptions(source=source))
    compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(arm)], options)
    before, written = weights(tmp_path / "in"), weights(tmp_path / "out")
    for name, value in loaded_and_compressed(tmp_path, arm).items():
        assert written[name].dtype == before[name].dtype
        assert torch.equal(written[name], value.to(before[name].dtype)), name


@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "awq:4,group=8", "shortgpt:0.5", "flap:0.3"])
def test_wide_norms_keep_every_bit(arm: str, tmp_path: Path) -> None:
    """Matrices in bfloat16, as the configuration says, norms in float32, which bfloat16 can't hold."""
    save_model("llama", tmp_path / "in")
    file = tmp_path / "in" / "model.safetensors"
    tensors = {
        name: value.bfloat16() if value.dim() == 2 else value * 1.2345678
        for name, value in load_file(file).items()
    }
    save_file(tensors, file, {"format": "pt"})
    config = json.loads((tmp_path / "in" / "config.json").read_text()) | {"dtype": "bfloat16"}
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    source = write_text(tmp_path / "text.txt")
    options = FolderOptions(text=TextOptions(source=source))
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(arm)], options)
    assert report.streamed
    written = weights(tmp_path / "out")
    for name, value in written.items():
        if name in tensors and "bias" not in name:
            assert value.dtype == tensors[name].dtype, name
    assert torch.equal(written["model.norm.weight"], tensors["model.norm.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    if arm.startswith(("wanda", "sparsegpt")):
        for name, value in loaded_and_compressed(tmp_path, arm).items():
            assert torch.equal(written[name].bfloat16(), value), name
            assert value.dim() == 2 or torch.equal(written[name], tensors[name]), name


def test_the_type_that_is_named_gives_what_transformers_loads(tmp_path: Path) -> None:
    save_mixed(tmp_path / "in", 1)
    source = write_text(tmp_path / "text.txt")
    step = step_of("wanda:0.5")
    compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step],
        FolderOptions(text=TextOptions(source=source), dtype="float32"),
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    compress(model, step, prepare_windows(step, tokenizer, TextOptions(source=source)))
    written = weights(tmp_path / "out")
    assert {value.dtype for value in written.values()} == {torch.float32}
    for name, value in model.state_dict().items():
        assert torch.equal(written[name], value), name


def test_texts_beyond_the_positions_are_cut_to_them(tmp_path: Path) -> None:
    """GPT-2 has a table of 128 positions."""
    save_model("gpt2", tmp_path / "in")
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(["w5", "w7"] * 100) for _ in range(2)))
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step_of("wanda:0.5")],
        FolderOptions(text=TextOptions(source=f"file:{tmp_path / 'text.txt'}")),
    )
    assert report.compression.calibration is not None
    assert report.compression.calibration.longest_window == 128
    assert any("128 tokens, the model's positions" in warning for warning in report.compression.warnings)


@pytest.mark.parametrize("arm", ["wanda:0.5", "gptq:4,group=8"])
def test_a_loaded_model_whose_types_do_not_fit_is_one_message(arm: str) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.float()
    with pytest.raises(CompressionError, match=r"forward pass .*types bfloat16, float32: load them in one"):
        compress(model, parse_arm(arm).steps[0], make_test_windows([20] * 4))
