"""Regrowing: which weights are swapped, against plain autograd, exact Fisher information and the loss itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.methods import guided, regrow, whole
from anomia.compress.methods.base import WholeWork
from anomia.compress.methods.guided import Snapshot
from anomia.compress.methods.regrow import USELESS, choose_swaps, pattern_of
from anomia.compress.methods.whole import parameters_of
from anomia.compress.spec import parse_arm
from anomia.compress.walk import make_model_batches
from anomia.errors import CompressionError, StudyError
from tests.command import anomia

from .conftest import FAMILIES, MIXTURES, make_test_windows, tiny_model
from .test_distill import kl
from .test_repair import pruned_folder

EVEN = [32] * 64
STEP = parse_arm("wanda:0.5+regrow").steps[0]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regrow, "UPDATER", regrow.UPDATER._replace(batch_tokens=128))


def regrown(model: Any, windows: Any, arm: str = "magnitude:0.5+regrow") -> Any:
    return compress(model, parse_arm(arm).steps[0], windows)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", sorted({**FAMILIES, **MIXTURES}))
def test_the_loss_falls_on_unseen_text_with_as_many_zeros_in_each_row(family: str) -> None:
    base = tiny_model(family)
    windows, unseen = make_test_windows(EVEN), torch.tensor(make_test_windows([32] * 16, seed=5).token_ids)
    pruned, after = copy.deepcopy(base), copy.deepcopy(base)
    regrown(pruned, windows, "magnitude:0.5")
    report = regrown(after, windows, "magnitude:0.5+regrow")
    assert not any(USELESS in matrix.note for matrix in report.matrices)
    assert kl(base, after, unseen) < kl(base, pruned, unseen)
    swapped = 0
    one, other, dense = (model.state_dict() for model in (pruned, after, base))
    for name, value in one.items():
        same = one[name] == other[name]
        back, gone = (value == 0) & ~same, (other[name] == 0) & ~same
        assert torch.equal(same, ~(back | gone)), name
        assert torch.equal(other[name][back], dense[name][back]), name
        assert int(back.sum()) == int(gone.sum()), name
        swapped += int(back.sum())
    assert swapped > 0


@pytest.mark.parametrize("arm", ["wanda:2:4+regrow", "taken"])
def test_a_pattern_stays(arm: str, tmp_path: Path) -> None:
    base = tiny_model("llama")
    windows = make_test_windows(EVEN)
    if arm == "taken":
        pruned = copy.deepcopy(base)
        regrown(pruned, windows, "wanda:2:4")
        pruned.save_pretrained(tmp_path / "pruned")
        arm = f"taken:{tmp_path / 'pruned'}+regrow"
    model = copy.deepcopy(base)
    report = regrown(model, windows, arm)
    assert not any(matrix.note for matrix in report.matrices)
    for matrix in report.matrices:
        zeros = model.get_submodule(matrix.name).weight == 0
        assert bool((zeros.view(len(zeros), -1, 4).sum(dim=2) == 2).all())


def prepared() -> tuple[Any, Any, WholeWork]:
    base = tiny_model("llama")
    pruned = copy.deepcopy(base)
    regrown(pruned, make_test_windows([32] * 4), "magnitude:0.5")
    decoder = find_blocks(pruned)
    batches = make_model_batches(decoder, make_test_windows([12, 12]), regrow.UPDATER.needs)
    return base, pruned, WholeWork(pruned, decoder, Snapshot(find_blocks(base)), batches, STEP)  # type: ignore[arg-type]


def plain_loss(base: Any, model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        log_p = base(input_ids=ids).logits.log_softmax(-1)
    return (log_p.exp() * (log_p - model(input_ids=ids).logits.log_softmax(-1))).sum(-1).mean()


def test_gains_are_path_gradients_of_plain_autograd() -> None:
    base, pruned, work = prepared()
    sums = regrow._sums(work, parameters_of(work.decoder), [0])
    (batch,) = work.batches
    path: dict[str, torch.Tensor] = {}
    for alpha, weight in ((0.0, 1 / 6), (0.5, 4 / 6), (1.0, 1 / 6)):
        mixed = copy.deepcopy(pruned)
        with torch.no_grad():
            for name, value in mixed.named_parameters():
                value.lerp_(base.get_parameter(name), alpha)
        plain_loss(base, mixed, batch.input_ids).backward()
        for name in sums.path:
            gradient = mixed.get_parameter(name).grad
            path[name] = path.get(name, 0) + weight * gradient
            if alpha == 0:
                torch.testing.assert_close(sums.gradient[name], gradient, rtol=1e-4, atol=1e-7)
    for name, found in sums.path.items():
        torch.testing.assert_close(found, path[name], rtol=1e-3, atol=1e-6)


def test_shares_add_up_to_the_loss() -> None:
    """Of all matrices together: what all pruned weights and all changes of kept ones give back."""
    base, pruned, work = prepared()
    sums = regrow._sums(work, parameters_of(work.decoder), [0])
    given = sum(
        float(((base.get_parameter(name) - pruned.get_parameter(name)).detach() * -each).sum())
        for name, each in sums.path.items()
    )
    with torch.no_grad():
        whole_loss = float(plain_loss(base, pruned, work.batches[0].input_ids))
    # Simpson's rule with three points leaves some of a path on which the loss bends much.
    assert given == pytest.approx(whole_loss, rel=0.2)


def test_the_fisher_information_is_that_of_the_models_own_words() -> None:
    """Against Σ_t s_t Σ_y p(y) (∂ ln p(y) / ∂w)², summed over the whole vocabulary."""
    _, pruned, work = prepared()
    name = "model.layers.1.self_attn.v_proj.weight"
    ids = work.batches[0].input_ids
    parameter = pruned.get_parameter(name)
    log_p = pruned(input_ids=ids).logits.log_softmax(-1).reshape(-1, pruned.config.vocab_size)
    exact = torch.zeros_like(parameter)
    for row in log_p:
        for value in row:
            (gradient,) = torch.autograd.grad(value, parameter, retain_graph=True)
            exact += float(value.exp()) * gradient**2 / len(log_p)
    draws = 400
    estimate = torch.zeros_like(parameter)
    for seed in range(draws):
        for found in regrow._squares(work, parameters_of(work.decoder), [0], seed=seed):
            estimate += dict(found)[name] / draws
    assert float(estimate.sum()) == pytest.approx(float(exact.sum()), rel=0.1)
    assert float(torch.corrcoef(torch.stack([estimate.flatten(), exact.flatten()]))[0, 1]) > 0.97


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 6),
    size=st.sampled_from([2, 4]),
    share=st.sampled_from([0.01, 0.2, 1.0]),
    grouped=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_swaps_pay_keep_zeros_and_are_the_best(
    rows: int, groups: int, size: int, share: float, grouped: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, groups * size)
    zeros = torch.rand(shape, generator=generator) < 0.5
    gain, cost = (torch.randn(shape, generator=generator) for _ in range(2))
    swaps = choose_swaps(zeros, gain, cost, share, size if grouped else None)
    assert not bool((swaps.back & ~zeros).any() or (swaps.gone & zeros).any())
    most = -(-share * shape[1] // 1)
    for row in range(rows):
        back, gone = swaps.back[row].nonzero().flatten(), swaps.gone[row].nonzero().flatten()
        assert len(back) == len(gone) <= most
        assert sorted(back // size) == sorted(gone // size) or not grouped
        if not grouped and len(back):
            # One pair more would cost more than it gives, unless the share is used up.
            gains = gain[row][zeros[row]].sort(descending=True).values
            costs = cost[row][~zeros[row]].sort().values
            assert float(gain[row][back].min() - cost[row][gone].max()) > -1e9
            assert torch.equal(gain[row][back].sort(descending=True).values, gains[: len(back)])
            assert torch.equal(cost[row][gone].sort().values, costs[: len(back)])
            assert bool((gains[: len(back)] > costs[: len(back)]).all())


def test_what_decides_also_undoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every number of swaps makes the held-out batches worse, nothing changes, and a note says so."""
    base = tiny_model("llama")
    windows = make_test_windows(EVEN)
    models = [copy.deepcopy(base) for _ in range(2)]
    regrown(models[0], windows, "magnitude:0.5")
    losses = iter([1.0, 2.0, 2.0, 1.0, float("nan")])
    monkeypatch.setattr(regrow, "mean_loss", lambda *_: next(losses))
    report = regrown(models[1], windows)
    assert all(matrix.note == USELESS for matrix in report.matrices)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_patterns_are_recognised() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(8, 64, generator=generator)
    for keep, group in ((1, 2), (2, 4), (1, 4), (4, 8)):
        order = scores.view(8, -1, group).argsort(dim=2).argsort(dim=2)
        found = pattern_of((order >= keep).view(8, 64))
        assert found is not None
        assert group % found == 0 or found % group == 0
    assert pattern_of(scores < scores.median()) is None
    assert pattern_of(torch.zeros(8, 64, dtype=torch.bool)) is None


def test_a_loss_that_is_not_finite_and_too_little_memory_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    real = guided.kl_divergence

    def broken(one: torch.Tensor, other: torch.Tensor) -> guided.KL:
        found = real(one, other)
        return found._replace(nats=found.nats * float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(whole, "kl_divergence", broken)
        with pytest.raises(CompressionError, match="is NaN or infinite, which regrow can't use"):
            regrown(tiny_model("llama"), make_test_windows(EVEN))
    monkeypatch.setattr(guided, "_free_bytes", lambda device: 100)
    with pytest.raises(CompressionError, match=r"gradients of all weights in float32: .* GB more"):
        regrown(tiny_model("llama"), make_test_windows(EVEN))


def test_the_command_regrows_a_pruned_folder(tmp_path: Path) -> None:
    options = pruned_folder(tmp_path)
    done = anomia(
        "repair", tmp_path / "in", tmp_path / "pruned", tmp_path / "out", "--regrow", "--distill", "1",
        "--calibration", options.text.source, "--calibration-samples", "12",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "+regrow+distill,epochs=1" in (tmp_path / "out" / "anomia.json").read_text()
    pruned, after = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("pruned", "out")
    )
    for name, value in pruned.items():
        assert torch.equal((value == 0).sum(dim=-1), (after[name] == 0).sum(dim=-1)), name


def test_it_comes_right_after_pruning(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"regrow swaps weights as pruning left them, so repair can't come before it"
    ):
        parse_arm("wanda:0.5+repair+regrow")
    with pytest.raises(StudyError, match="regrow changes all blocks at once, so repair can't follow it"):
        parse_arm("wanda:0.5+regrow+repair")
    done = anomia("repair", "a", "b", tmp_path / "out", "--regrow", "--train", "2")
    assert done.returncode == 2
    assert "leave out --guided and --train" in done.stderr
