"""Weights stored in several types, as transformers loads them by casting: one message, and the remedy that it names works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.errors import CompressionError

from .test_folder import save_model, step_of, weights, write_text


def save_mixed(folder: Path, block: int, dtype: torch.dtype = torch.bfloat16) -> None:
    save_model("llama", folder)
    file = folder / "model.safetensors"
    tensors = {
        name: value.to(dtype) if f"layers.{block}." in name and value.dim() == 2 else value
        for name, value in load_file(file).items()
    }
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("step", ["wanda:0.5", "sparsegpt:0.5"])
def test_a_block_in_another_type_ends_in_one_message(block: int, step: str, tmp_path: Path) -> None:
    save_mixed(tmp_path / "in", block)
    source = write_text(tmp_path / "text.txt")
    with pytest.raises(CompressionError, match=r"several types \(bfloat16, float32\).*--dtype float32"):
        compress_folder(
            str(tmp_path / "in"),
            tmp_path / "out",
            [step_of(step)],
            FolderOptions(text=TextOptions(source=source)),
        )


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


def test_texts_beyond_the_positions_are_named(tmp_path: Path) -> None:
    """GPT-2 has a table of 128 positions."""
    save_model("gpt2", tmp_path / "in")
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(["w5", "w7"] * 100) for _ in range(2)))
    source = f"file:{tmp_path / 'text.txt'}"
    with pytest.raises(CompressionError, match=r"has 200 tokens, .* 128 positions.*--calibration-tokens 128"):
        compress_folder(
            str(tmp_path / "in"),
            tmp_path / "out",
            [step_of("wanda:0.5")],
            FolderOptions(text=TextOptions(source=source)),
        )
    step = step_of("wanda:0.5,tokens=128")
    report = compress_folder(
        str(tmp_path / "in"), tmp_path / "out", [step], FolderOptions(text=TextOptions(source=source))
    )
    assert report.compression.calibration is not None
    assert report.compression.calibration.longest_window == 128
