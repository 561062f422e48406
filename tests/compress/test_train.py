"""Training: a few gradient steps on a block's kept weights, judged on batches that it doesn't see."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

from anomia.cli.app import app
from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import compress_folder
from anomia.compress.in_files import InFiles
from anomia.compress.methods import train
from anomia.compress.methods.train import USELESS
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm, unrepaired
from anomia.errors import CompressionError

from .conftest import FAMILIES, MIXTURES, make_test_windows, tiny_model
from .test_folder import StopError, save_model, write_text
from .test_repair import pruned_folder

EVEN = [32] * 64
BATCH = 128
"""Four windows: sixteen batches, of which the eighth and the last decide."""


def trained(model: Any, windows: Any, arm: str = "wanda:0.5+train") -> Any:
    return compress(model, parse_arm(arm).steps[0], windows, batch_tokens=BATCH)  # type: ignore[arg-type]


def relative_error(base: Any, model: Any, ids: torch.Tensor, block: int) -> float:
    """The mean over tokens of ‖y − ŷ‖²/‖y‖² behind a block, in plain forward passes of both models."""
    with torch.no_grad():
        wanted, found = (
            each(input_ids=ids, output_hidden_states=True).hidden_states[block + 1] for each in (base, model)
        )
    return float(((wanted - found).square().sum(-1) / wanted.square().sum(-1)).mean())


@pytest.mark.parametrize("family", sorted({**FAMILIES, **MIXTURES}))
def test_unseen_outputs_come_closer_and_nothing_but_kept_weights_moves(family: str) -> None:
    base = tiny_model(family)
    windows, unseen = make_test_windows(EVEN), torch.tensor(make_test_windows([32] * 16, seed=5).token_ids)
    models = {arm: copy.deepcopy(base) for arm in ("wanda:0.5", "wanda:0.5+train")}
    reports = {arm: trained(model, windows, arm) for arm, model in models.items()}
    pruned, after = models.values()
    assert relative_error(base, after, unseen, 0) < relative_error(base, pruned, unseen, 0)
    assert [m.zeros for m in reports["wanda:0.5+train"].matrices] == [
        m.zeros for m in reports["wanda:0.5"].matrices
    ]
    changed = {matrix.name for matrix in reports["wanda:0.5"].matrices}
    stacks = {name for name in base.state_dict() if ".experts." in name}
    mine, theirs = after.state_dict(), base.state_dict()
    for name, value in theirs.items():
        if not {name, name.removesuffix(".weight")} & (changed | stacks):
            assert torch.equal(mine[name], value), name
    # In the first block both masks are Wanda's on the same inputs.
    for matrix in reports["wanda:0.5"].matrices:
        if ".0." in matrix.name and f"{matrix.name}.weight" in mine:
            zeros = pruned.state_dict()[f"{matrix.name}.weight"] == 0
            assert torch.equal(mine[f"{matrix.name}.weight"] == 0, zeros)


def test_what_decides_is_not_trained_on() -> None:
    """Held-out batches alone choose the epoch: where training makes them worse, nothing changes."""
    base = tiny_model("llama")
    windows = make_test_windows(EVEN)
    real = train._Trained._loss

    def spoiled(self: Any, number: int) -> torch.Tensor:
        loss = real(self, number)
        return loss if number in self._held else -loss

    models = [copy.deepcopy(base) for _ in range(2)]
    trained(models[0], windows, "wanda:0.5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train._Trained, "_loss", spoiled)
        report = trained(models[1], windows)
    assert all(matrix.note == USELESS for matrix in report.matrices)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_is_the_model_in_memory_also_when_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm("wanda:0.5+repair+train:epochs=2").steps
    compress_folder(str(tmp_path / "in"), tmp_path / "whole", steps, options)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    compress(model, steps[0], prepare_windows(steps[0], tokenizer, options.text))
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole[name]), name
    real = InFiles.store

    def stop(blocks: Any, index: int, packed: Any) -> None:
        if index == 2:
            raise StopError
        real(blocks, index, packed)

    monkeypatch.setattr(InFiles, "store", stop)
    with pytest.raises(StopError):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    monkeypatch.setattr(InFiles, "store", real)
    assert compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options).resumed_at == 2
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_pruned_folder_is_repaired_and_trained_by_the_command(tmp_path: Path) -> None:
    options = pruned_folder(tmp_path)
    call = ["repair", str(tmp_path / "in"), str(tmp_path / "pruned"), str(tmp_path / "out"), "--train", "1"]
    text = ["--calibration", options.text.source, "--calibration-samples", "12"]
    done = CliRunner().invoke(app, [*call, *text])
    assert done.exit_code == 0, done.output
    pruned, found = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("pruned", "out")
    )
    assert all(torch.equal(found[name] == 0, pruned[name] == 0) for name in found)
    assert "+repair+train,epochs=1" in (tmp_path / "out" / "anomia.json").read_text("utf-8")


def test_weights_in_bfloat16_keep_their_type_and_zeros() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    base = copy.deepcopy(model)
    report = trained(model, make_test_windows(EVEN))
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    assert any(
        not torch.equal(one, other) for one, other in zip(model.parameters(), base.parameters(), strict=True)
    )
    for matrix in report.matrices:
        zeros = int((model.get_submodule(matrix.name).weight == 0).sum())
        assert zeros == matrix.zeros >= 0.5 * matrix.shape[0] * matrix.shape[1]


def test_an_error_that_is_not_finite_is_refused() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1e30)
        model.model.layers[1].mlp.gate_proj.weight.mul_(1e30)
    with pytest.raises(CompressionError, match=r"infinite|inputs"):
        trained(model, make_test_windows([16] * 8), "magnitude:0.5+train")


def test_trained_arms_are_repairs_of_the_arm_without_training() -> None:
    arms = ["wanda:0.5", "wanda:0.5+repair+train:epochs=2", "checkpoint:a"]
    assert unrepaired(arms[1], arms) == arms[0]
    assert unrepaired("taken:a+train", arms) == arms[2]
    assert str(parse_arm(arms[1])) == "wanda:0.5+repair+train,epochs=2"
