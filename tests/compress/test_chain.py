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
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.unfinished import UNFINISHED, step_folder
from anomia.errors import CompressionError, DataError, StudyError

from .test_folder import StopError, save_model, write_text


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def test_a_chain_of_folders_is_the_chain_in_memory(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm("magnitude:0.3+wanda:0.5+int8").steps
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    for step in steps:
        compress(model, step, prepare_windows(step, tokenizer, options.text))
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
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm("magnitude:0.3+wanda:0.5").steps
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", steps, options)
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
            compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    assert stored == [("step-1", 0), ("step-1", 1), ("step-1", 2), ("step-2", 0)]
    again = compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    assert again.resumed_at == 1
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("wanda:0.5+int4:group=7", "7 can't divide"),
        ("magnitude:5:9+int8", "can't divide"),
        ("checkpoint:x+wanda:0.5", "a complete model; give it as MODEL"),
        ("base", "nothing to do"),
    ],
)
def test_a_chain_that_can_not_be_is_refused_before_anything_is_written(
    arm: str, says: str, tmp_path: Path
) -> None:
    save_model("llama", tmp_path / "in")
    with pytest.raises((CompressionError, StudyError), match=says):
        compress_folder(
            str(tmp_path / "in"),
            tmp_path / "out",
            parse_arm(arm).steps,
            FolderOptions(text=TextOptions(source="demo")),
        )
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


def interrupted(
    folder: Path, arm: str, at: tuple[str, int], options: FolderOptions = FolderOptions()
) -> Path:
    """A chain that stopped before a block of a step was stored."""
    real = InFiles.store

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if (blocks._out.name, index) == at:
            raise StopError
        real(blocks, index, packed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InFiles, "store", stop)
        with pytest.raises(StopError):
            compress_folder(str(folder / "in"), folder / "out", parse_arm(arm).steps, options)
    return folder / "out"


@pytest.mark.parametrize("what", ["model", "calibration text"])
def test_a_finished_step_is_held_to_its_model_and_text(what: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    out = interrupted(tmp_path, "wanda:0.5+int8", ("step-2", 0), options)
    if what == "model":
        stored = load_file(tmp_path / "in" / "model.safetensors")
        stored["model.layers.2.mlp.up_proj.weight"] += 1
        save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    else:
        write_text(tmp_path / "text.txt", seed=1)
    with pytest.raises(CompressionError, match=f"an unfinished compression with another {what}"):
        compress_folder(str(tmp_path / "in"), out, parse_arm("wanda:0.5+int8").steps, options)


def test_an_allocation_is_made_anew_for_another_text(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    arm = "wanda:0.5,allocation=owl"
    out = interrupted(tmp_path, arm, ("step-1", 0), options)
    before = json.loads((step_folder(out, 1) / UNFINISHED / "state.json").read_text())["sparsities"]
    write_text(tmp_path / "text.txt", seed=1)
    report = compress_folder(str(tmp_path / "in"), out, parse_arm(arm).steps, options)
    fresh = compress_folder(str(tmp_path / "in"), tmp_path / "fresh", parse_arm(arm).steps, options)
    assert list(report.compression.block_sparsity) != before
    assert report.compression.block_sparsity == fresh.compression.block_sparsity


@pytest.mark.parametrize("damage", ["zeros", "cut off", "missing"])
def test_damaged_states_are_noticed(damage: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    out = interrupted(tmp_path, "wanda:0.5", ("step-1", 1), options)
    file = step_folder(out, 1) / UNFINISHED / "states-1.bin"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(bytes(len(content)) if damage == "zeros" else content[:100])
    with pytest.raises(CompressionError, match=r"states-1\.bin does not hold the calibration states"):
        compress_folder(str(tmp_path / "in"), out, parse_arm("wanda:0.5").steps, options)


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    out = interrupted(tmp_path, "magnitude:0.5", ("step-1", 2))
    (step_folder(out, 1) / "model-00001.safetensors").unlink()
    with pytest.raises(
        CompressionError, match=r"model-00001\.safetensors is missing from the finished blocks"
    ):
        compress_folder(str(tmp_path / "in"), out, parse_arm("magnitude:0.5").steps)


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"]
)
@pytest.mark.parametrize("arm", ["magnitude:0.5", "prunerzero:0.5"])
def test_values_that_are_no_numbers_are_refused_wherever_they_are(
    name: str, arm: str, tmp_path: Path
) -> None:
    """Also where nothing is pruned: a cast to a narrower type makes them."""
    save_model("llama", tmp_path / "in")
    stored = load_file(tmp_path / "in" / "model.safetensors")
    stored[name].view(-1)[0] = 1e6
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=2)
    options = FolderOptions(text=text, dtype="float16")
    with pytest.raises(CompressionError, match=r"NaN or infinite|not finite"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", parse_arm(arm).steps, options)


def test_a_refused_call_leaves_no_parents_and_an_empty_folder_empty(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        with pytest.raises(DataError):
            compress_folder(
                str(tmp_path / "in"),
                out,
                parse_arm("wanda:0.5").steps,
                FolderOptions(text=TextOptions(source="file:/nope.txt")),
            )
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "a").exists()
