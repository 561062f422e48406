"""Chains of steps from one folder into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import UNFINISHED, compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.spec import parse_arm
from anomia.errors import CompressionError, StudyError

from .test_folder import StopError, save_model, write_text


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def test_a_chain_of_folders_is_the_chain_in_memory(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options: dict[str, Any] = {"calibration": write_text(tmp_path / "text.txt"), "samples": 12}
    steps = parse_arm("magnitude:0.3+wanda:0.5+int8").steps
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    for step in steps:
        compress(model, step, prepare_windows(step, tokenizer, **options))
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, value in model.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert [step.step for step in report.steps] == ["magnitude:0.3", "wanda:0.5", "int8"]
    assert not (tmp_path / "out" / UNFINISHED).exists()
    written = json.loads((tmp_path / "out" / "anomia.json").read_text())
    assert [step["step"] for step in written["before"]] == ["magnitude:0.3", "wanda:0.5"]
    assert "magnitude:0.3+wanda:0.5+int8" in (tmp_path / "out" / "README.md").read_text()


def test_an_interrupted_chain_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    options: dict[str, Any] = {"calibration": write_text(tmp_path / "text.txt"), "samples": 12}
    steps = parse_arm("magnitude:0.3+wanda:0.5").steps
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", steps, **options)
    stored: list[tuple[str, int]] = []

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if len(stored) == 4:
            raise StopError
        real(blocks, index, packed)
        stored.append((blocks._out.name, index))

    real = InFiles.store
    with monkeypatch.context() as patch:
        patch.setattr(InFiles, "store", stop)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, **options)
    assert stored == [("step-1", 0), ("step-1", 1), ("step-1", 2), ("out", 0)]
    again = compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, **options)
    assert again.resumed_at == 1
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("wanda:0.5+int4:group=7", "7 can't divide"),
        ("magnitude:5:9+int8", "can't divide"),
        ("checkpoint:x+wanda:0.5", "a model of its own"),
        ("base", "nothing to do"),
    ],
)
def test_a_chain_that_can_not_be_is_refused_before_anything_is_written(
    arm: str, says: str, tmp_path: Path
) -> None:
    save_model("llama", tmp_path / "in")
    with pytest.raises((CompressionError, StudyError), match=says):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(arm).steps, calibration="demo")
    assert not (tmp_path / "out").exists()


def test_a_refusal_during_work_leaves_no_folder_behind(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    stored = load_file(tmp_path / "in" / "model.safetensors")
    stored["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompressionError, match="NaN or infinite"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm("magnitude:0.5").steps)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_that_was_there_stays(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(CompressionError, match="can't divide"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm("magnitude:5:9").steps)
    assert (tmp_path / "out").exists()
