"""Methods with weight updates, permutations and gradients, from one folder to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.options import FolderOptions, TextOptions

from .test_folder import save_model, step_of, weights, write_text

ARMS = (
    "wanda:0.5+update",
    "sparsegpt:0.5+update,solver=admm",
    "wanda:0.6+dsnot+update",
    "alps:2:4",
    "ria:2:4+update",
    "wandapp:0.5",
    "wandapp:2:4,rounds=2",
)


class StopError(Exception):
    """Stands for whatever ends a run in the middle."""


@pytest.mark.parametrize("family", ["llama_biases_tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("arm", ARMS)
def test_folder_to_folder_gives_the_bits_of_the_in_place_arm(family: str, arm: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "in")
    source = write_text(tmp_path / "text.txt")
    step = step_of(arm)
    report = compress_folder(
        str(tmp_path / "in"),
        tmp_path / "out",
        [step],
        FolderOptions(text=TextOptions(source=source, samples=12)),
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    in_place = compress(model, step, prepare_windows(step, tokenizer, TextOptions(source=source, samples=12)))
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(reloaded[name], value), name
    assert report.compression.matrices == in_place.matrices
    assert report.compression.step == arm


@pytest.mark.parametrize("arm", ["ria:2:4+update", "wandapp:2:4,rounds=2", "wanda:0.5+dsnot"])
def test_an_interrupted_run_ends_with_the_same_bits(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("gemma3", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", [step_of(arm)], options)
    real = InFiles.store

    def write_then_stop(blocks: Any, index: int, packed: Any) -> None:
        real(blocks, index, packed)
        if index == 1:
            raise StopError

    monkeypatch.setattr(InFiles, "store", write_then_stop)
    with pytest.raises(StopError):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(arm)], options)
    monkeypatch.setattr(InFiles, "store", real)
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(arm)], options)
    assert report.resumed_at >= 1
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
