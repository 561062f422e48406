"""Distillation: gradient steps on all kept weights towards base's probabilities, against plain autograd."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.methods import distill, guided, whole
from anomia.compress.methods.base import WholeWork
from anomia.compress.methods.distill import USELESS
from anomia.compress.methods.guided import Snapshot
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm, unrepaired
from anomia.compress.steps import Update, passes_of
from anomia.compress.walk import make_model_batches
from anomia.errors import CompressionError, StudyError
from tests.command import anomia

from .conftest import FAMILIES, MIXTURES, make_test_windows, tiny_model
from .test_folder import save_model, write_text
from .test_repair import pruned_folder

EVEN = [32] * 64
STEP = parse_arm("wanda:0.5+distill").steps[0]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four windows in each: sixteen batches, of which two decide."""
    monkeypatch.setattr(distill, "UPDATER", distill.UPDATER._replace(batch_tokens=128))


def distilled(model: Any, windows: Any, arm: str = "wanda:0.5+distill") -> Any:
    return compress(model, parse_arm(arm).steps[0], windows)  # type: ignore[arg-type]


def kl(base: Any, model: Any, ids: torch.Tensor, start: int | None = None) -> float:
    """Mean KL(base ‖ model) per position in plain forward passes of both; from the first token of an answer."""
    with torch.no_grad():
        log_p, log_q = (each(input_ids=ids).logits.double().log_softmax(-1) for each in (base, model))
    nats = (log_p.exp() * (log_p - log_q)).sum(-1)
    return float((nats if start is None else nats[:, start - 1 : -1]).mean())


@pytest.mark.parametrize("family", sorted({**FAMILIES, **MIXTURES}))
def test_unseen_probabilities_come_closer_and_nothing_but_kept_weights_moves(family: str) -> None:
    base = tiny_model(family)
    windows, unseen = make_test_windows(EVEN), torch.tensor(make_test_windows([32] * 16, seed=5).token_ids)
    models = {arm: copy.deepcopy(base) for arm in ("wanda:0.5", "wanda:0.5+distill")}
    reports = {arm: distilled(model, windows, arm) for arm, model in models.items()}
    pruned, after = models.values()
    assert kl(base, after, unseen) < kl(base, pruned, unseen)
    matrices = reports["wanda:0.5+distill"].matrices
    assert [m.zeros for m in matrices] == [m.zeros for m in reports["wanda:0.5"].matrices]
    changed = {matrix.name for matrix in matrices}
    stacks = {name for name in base.state_dict() if ".experts." in name}
    mine, before = after.state_dict(), pruned.state_dict()
    for name, value in before.items():
        if not {name, name.removesuffix(".weight")} & (changed | stacks):
            assert torch.equal(mine[name], value), name
        assert torch.equal(mine[name] == 0, value == 0), name
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_a_step_follows_the_gradient_of_plain_autograd() -> None:
    """Plain gradients of the mean KL at the positions that predict the answers, weights of answers included."""
    base = tiny_model("llama")
    pruned = copy.deepcopy(base)
    windows = replace(make_test_windows([9, 9]), answer_starts=(4, None), answer_weight=3.0)
    distilled(pruned, make_test_windows([32] * 4), "wanda:0.5")
    decoder = find_blocks(pruned)
    (batch,) = make_model_batches(decoder, windows, distill.UPDATER.needs)
    work = WholeWork(pruned, decoder, Snapshot(find_blocks(base)), [batch], STEP)
    ours = distill._Distilled(work)
    taken: dict[str, torch.Tensor] = {}

    class Keep(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            taken.update({name: weight.grad.clone() for name, weight in ours._weights.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "_LONGEST", 1e9)
        ours._step(0, Keep(list(ours._weights.values()), lr=0.1))
    plain = copy.deepcopy(pruned)
    ids = batch.input_ids
    log_q = plain(input_ids=ids).logits.log_softmax(-1)
    with torch.no_grad():
        log_p = base(input_ids=ids).logits.log_softmax(-1)
    nats = (log_p.exp() * (log_p - log_q)).sum(-1)
    # Positions 3 to 7 predict the answer of the first window and weigh 3; all nine of the other weigh 1.
    ((3 * nats[0, 3:8].sum() + nats[1].sum()) / (3 * 5 + 9)).backward()
    assert len(taken) == 3 * 7
    for name, found in taken.items():
        wanted = plain.get_parameter(name)
        torch.testing.assert_close(found, wanted.grad * (wanted != 0), rtol=1e-4, atol=1e-8)


def test_what_decides_is_not_trained_on() -> None:
    """Held-out batches alone choose the epoch: where training makes them worse, nothing changes."""
    base = tiny_model("llama")
    windows = make_test_windows(EVEN)
    models = [copy.deepcopy(base) for _ in range(2)]
    distilled(models[0], windows, "wanda:0.5")
    real = guided.kl_divergence
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            whole,
            "kl_divergence",
            lambda one, other: (found := real(one, other))._replace(gradient=-found.gradient),
        )
        report = distilled(models[1], windows)
    assert all(matrix.note == USELESS for matrix in report.matrices)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_is_the_model_in_memory(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm("wanda:0.5+repair+distill:epochs=2").steps
    compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    compress(model, steps[0], prepare_windows(steps[0], tokenizer, options.text))
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, written[name]), name


def test_the_command_distills_a_pruned_folder(tmp_path: Path) -> None:
    options = pruned_folder(tmp_path)
    done = anomia(
        "repair", tmp_path / "in", tmp_path / "pruned", tmp_path / "out", "--distill", "2",
        "--calibration", options.text.source, "--calibration-samples", "12",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "out" / "anomia.json").read_text())
    assert "+repair+distill,epochs=2" in json.dumps(made)
    pruned, after = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("pruned", "out")
    )
    assert any(not torch.equal(pruned[name], after[name]) for name in pruned)
    assert all(torch.equal(pruned[name] == 0, after[name] == 0) for name in pruned)


def test_too_little_memory_is_told_before_any_block_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(guided, "_free_bytes", lambda device: 100)
    with pytest.raises(
        CompressionError, match=r"two moments in float32: .* GB more, and 0\.0 GB of memory are free"
    ):
        distilled(model, make_test_windows(EVEN))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_a_loss_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = guided.kl_divergence

    def broken(one: torch.Tensor, other: torch.Tensor) -> guided.KL:
        found = real(one, other)
        return found._replace(nats=found.nats * float("nan"))

    monkeypatch.setattr(whole, "kl_divergence", broken)
    with pytest.raises(CompressionError, match="final loss of LlamaForCausalLM, or its gradient, is NaN"):
        distilled(tiny_model("llama"), make_test_windows(EVEN))


def test_it_stands_last_and_is_a_repair() -> None:
    assert unrepaired("wanda:0.5+repair+distill", ["wanda:0.5", "wanda:0.5+repair"]) == "wanda:0.5"
    with pytest.raises(StudyError, match=r"distill changes all blocks at once, so train can't follow it"):
        parse_arm("wanda:0.5+distill+train")
    step = parse_arm("wanda:0.5+distill:epochs=8").steps[0]
    once = parse_arm("wanda:0.5+distill").steps[0]
    bare = parse_arm("wanda:0.5").steps[0]
    assert passes_of(step) - passes_of(bare) == 2 * (passes_of(once) - passes_of(bare))  # type: ignore[arg-type]
    assert Update("distill").option("epochs") == 4
