"""Repair that is guided by the final loss: its token weights, against plain autograd on whole models."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.calibration import Batch, Windows, make_batches
from anomia.compress.folder import compress_folder
from anomia.compress.methods import guided
from anomia.compress.methods.guided import (
    ALIKE,
    FEW,
    Guidance,
    Snapshot,
    TokenGradients,
    effective_tokens,
    guidance,
    kl_divergence,
    token_gradients,
)
from anomia.compress.methods.repair import NOT_PAIRED
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm, unrepaired
from anomia.compress.steps import passes_of
from anomia.errors import CompressionError, RefusedError, StudyError
from tests.command import anomia

from .conftest import MIXTURES, make_test_windows, tiny_model
from .test_folder import save_model, write_text
from .test_repair import repaired

GROUP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def with_answers(windows: Windows, starts: tuple[int | None, ...]) -> Windows:
    return replace(windows, answer_starts=starts)


def gradients_of(base: Any, model: Any, batches: list[Batch]) -> TokenGradients:
    """`token_gradients` of two models: base's values, in the modules of the other."""
    wanted = copy.deepcopy(base)
    decoder = find_blocks(model)
    snapshot = Snapshot(find_blocks(wanted))
    return token_gradients(model, decoder, snapshot, batches)


def by_autograd(base: Any, model: Any, windows: Windows, name: str) -> list[torch.Tensor]:
    """For each window, the squared gradient of its summed KL at a module's outputs: [S, out]."""
    found = []
    starts = windows.answer_starts or (None,) * len(windows.token_ids)
    for ids, start in zip(windows.token_ids, starts, strict=True):
        row = torch.tensor([ids])
        outputs: list[torch.Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(
            lambda _, __, out, outputs=outputs: outputs.append(out)
        )
        log_q = model(input_ids=row).logits[0].log_softmax(-1)
        handle.remove()
        with torch.no_grad():
            log_p = base(input_ids=row).logits[0].log_softmax(-1)
        nats = (log_p.exp() * (log_p - log_q)).sum(-1)
        loss = nats.sum() if start is None else nats[start - 1 : -1].sum()
        (gradient,) = torch.autograd.grad(loss, outputs[0])
        found.append(gradient[0] ** 2)
    return found


@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 1.0, 20.0]))
def test_the_loss_is_scipys_and_its_gradient_autograds(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    base, mine = (scale * torch.randn(5, 11, generator=generator) for _ in range(2))
    with patch("anomia.compress.methods.guided._ROWS", 2):
        found = kl_divergence(base, mine)
    np.testing.assert_allclose(found.apart, found.gradient.norm(dim=-1), rtol=1e-5)
    mine.requires_grad_(True)
    wide = [softmax(each.detach().double().numpy(), axis=-1) for each in (base, mine)]
    np.testing.assert_allclose(found.nats, rel_entr(*wide).sum(-1), rtol=1e-4, atol=1e-5)
    loss = torch.nn.functional.kl_div(
        mine.log_softmax(-1), base.log_softmax(-1), log_target=True, reduction="sum"
    )
    (gradient,) = torch.autograd.grad(loss, mine)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-4, atol=1e-5)


def test_tokens_that_base_cannot_say_add_nothing() -> None:
    base, mine = torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    base[0, 3] = mine[0, 3] = -torch.inf
    found = kl_divergence(base, mine)
    whole = kl_divergence(base[:, :3], mine[:, :3])
    torch.testing.assert_close(found.nats, whole.nats)
    torch.testing.assert_close(found.gradient[:, :3], whole.gradient)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "llama_biases_tied"])
@pytest.mark.parametrize("starts", [(), (9, 5, None, 3)])
def test_weights_are_those_of_plain_autograd(family: str, starts: tuple[int | None, ...]) -> None:
    base = tiny_model(family)
    model = copy.deepcopy(base)
    windows = make_test_windows([12, 7, 12, 9])
    windows = with_answers(windows, starts) if starts else windows
    compress(model, parse_arm("magnitude:0.5").steps[0])
    batches = make_batches(windows, batch_tokens=24)
    assert any(batch.real is not None for batch in batches)
    assert len(batches) > 1
    found = gradients_of(base, model, batches)
    assert not found.alike
    where = "transformer.h.1" if family == "gpt2" else "model.layers.1"
    names = ("attn.c_attn",) if family == "gpt2" else GROUP
    features, sums = 0, [torch.zeros(len(ids)) for ids in windows.token_ids]
    for name in names:
        squares = by_autograd(base, model, windows, f"{where}.{name}")
        features += squares[0].shape[1]
        sums = [mine + each.sum(-1) for mine, each in zip(sums, squares, strict=True)]
    means = [each / features for each in sums]
    overall = float(torch.cat(means).mean())
    expected = {ids: mine / overall for ids, mine in zip(windows.token_ids, means, strict=True)}
    weights = guidance(found, 1, names, batches).weights
    assert weights is not None
    total = 0.0
    for batch, mine in zip(batches, weights, strict=True):
        for ids, each in zip(batch.input_ids.tolist(), mine.view(batch.input_ids.shape), strict=True):
            (whole,) = (known for known in expected if tuple(ids[: len(known)]) == known)
            torch.testing.assert_close(each[: len(whole)], expected[whole], rtol=2e-3, atol=1e-5)
            assert not each[len(whole) :].any()
            total += float(each.sum())
    assert total == pytest.approx(sum(map(len, windows.token_ids)), rel=1e-4)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_prompts_count_through_attention_but_not_at_the_last_queries() -> None:
    """Tokens before the answer matter for what later ones read of them, and in the last block for nothing else."""
    base = tiny_model("llama")
    model = copy.deepcopy(base)
    compress(model, parse_arm("magnitude:0.5").steps[0])
    windows = with_answers(make_test_windows([12] * 4), (9,) * 4)
    batches = make_batches(windows)
    found = gradients_of(base, model, batches)
    (keys,) = found.norms[2, "self_attn.k_proj"]
    (queries,) = found.norms[2, "self_attn.q_proj"]
    (down,) = found.norms[2, "mlp.down_proj"]
    assert (keys.view(4, 12)[:, :8] > 0).all()
    for each in (queries, down):
        assert not each.view(4, 12)[:, :8].any()
        assert (each.view(4, 12)[:, 8:11] > 0).all()
        # The last token predicts nothing of the answer.
        assert not each.view(4, 12)[:, 11].any()
    (early,) = found.norms[0, "mlp.down_proj"]
    assert (early.view(4, 12)[:, :8] > 0).all()


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ((), [[1, 1, 1, 1], [1, 1, 0, 0]]),
        ((2, 1), [[0, 1, 1, 0], [1, 0, 0, 0]]),
        ((None, 1), [[1, 1, 1, 1], [1, 0, 0, 0]]),
    ],
)
def test_positions_that_predict_answers(starts: tuple[int | None, ...], expected: list[list[int]]) -> None:
    windows = make_test_windows([4, 2])
    (batch,) = make_batches(with_answers(windows, starts))
    assert batch.predicting.view(2, 4).int().tolist() == expected


def test_guided_repair_is_the_weighted_least_squares() -> None:
    """The same weights given as the batch's own lead to the same repair."""
    base = tiny_model("llama")
    windows = make_test_windows([24] * 12)
    model = copy.deepcopy(base)
    report = repaired(model, windows, "wanda:0.5+repair,guided")
    assert report.step == "wanda:0.5+repair,guided=yes"
    plain = copy.deepcopy(base)
    repaired(plain, windows, "wanda:0.5+repair")
    name = "model.layers.0.self_attn.q_proj"
    weight, mine, other = (each.get_submodule(name).weight.detach() for each in (base, model, plain))
    assert torch.equal(mine == 0, other == 0)
    assert not torch.equal(mine, other)
    pruned = copy.deepcopy(base)
    compress(pruned, parse_arm("wanda:0.5").steps[0], windows)
    batches = make_batches(windows, batch_tokens=1024)
    weights = guidance(gradients_of(base, pruned, batches), 0, GROUP, batches).weights
    assert weights is not None
    # Inputs of the first group are base's own, so the loss is that of the weights alone.
    inputs = torch.cat([_inputs(base, batch.input_ids, name) for batch in batches]).double()
    scale = torch.cat(weights).double()[:, None]
    losses = [float((scale * (inputs @ (each - weight).double().T) ** 2).sum()) for each in (mine, other)]
    assert losses[0] < losses[1]
    hessian = (inputs * scale).T @ inputs
    damping = 0.01 * float(hessian.diagonal().mean())
    wide = torch.cat([inputs * scale.sqrt(), damping**0.5 * torch.eye(16)]).numpy()
    best = 0.0
    for row in range(len(weight)):
        kept = (mine[row] != 0).numpy()
        wanted = wide @ weight[row].double().numpy()
        solved = np.linalg.lstsq(wide[:, kept], wanted, rcond=None)
        best += float(((wide[:, kept] @ solved[0] - wanted) ** 2).sum())
    reached = float((torch.from_numpy(wide) @ (mine - weight).double().T).square().sum())
    assert reached == pytest.approx(best, rel=1e-3)


def _inputs(model: Any, ids: torch.Tensor, name: str) -> torch.Tensor:
    found: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        model(input_ids=ids)
    handle.remove()
    return found[0].reshape(-1, found[0].shape[-1])


def test_answers_end_closer_to_bases_than_without_guidance() -> None:
    """On the calibration text itself, whose answers alone count, over several models."""
    windows = with_answers(make_test_windows([24] * 24), (20,) * 24)
    ids = torch.tensor(windows.token_ids)
    nats: dict[str, list[float]] = {"": [], ",guided": []}
    for seed in range(3):
        base = tiny_model("llama", seed=seed)
        for option, found in nats.items():
            model = copy.deepcopy(base)
            repaired(model, windows, f"wanda:0.5+repair{option}")
            with torch.no_grad():
                logits = [each(input_ids=ids).logits[:, 19:23].reshape(-1, 96) for each in (base, model)]
            found.append(float(kl_divergence(logits[0], logits[1]).nats.mean()))
    assert sum(nats[",guided"]) < sum(nats[""])


def test_a_model_that_is_bases_own_is_repaired_without_guidance_and_said() -> None:
    """Nothing is pruned here, so all gradients are zero."""
    base = tiny_model("llama")
    windows = make_test_windows([16] * 8)
    found = gradients_of(base, copy.deepcopy(base), make_batches(windows))
    assert found.alike
    assert found.nats == pytest.approx(0.0, abs=1e-6)
    model = copy.deepcopy(base)
    report = repaired(model, windows, "magnitude:0.001+repair,guided")
    assert all(each.note.startswith(ALIKE) for each in report.matrices)
    assert any(ALIKE in warning for warning in report.warnings)
    plain = copy.deepcopy(base)
    repaired(plain, windows, "magnitude:0.001+repair")
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_group_that_the_loss_does_not_depend_on_is_not_divided_by_zero() -> None:
    batches = make_batches(make_test_windows([3, 3]))
    key = (0, "a")
    found = TokenGradients({key: [torch.zeros(6)]}, {key: 4}, 1.0)
    assert guidance(found, 0, ["a"], batches) == Guidance(None, guided.SILENT)
    assert guidance(found, 0, ["a", "b"], batches) == Guidance(None, guided.UNEVEN)
    small = TokenGradients({key: [torch.full((6,), 1e-30)]}, {key: 4}, 1.0)
    (weights,) = guidance(small, 0, ["a"], batches).weights or [None]
    assert weights is not None
    torch.testing.assert_close(weights, torch.ones(6))
    assert effective_tokens([torch.ones(6)], batches) == pytest.approx(6)
    assert effective_tokens([torch.tensor([3.0, 0, 0, 0, 0, 0])], batches) == pytest.approx(1)


def test_few_tokens_are_said() -> None:
    windows = with_answers(make_test_windows([24] * 3), (23,) * 3)
    report = repaired(tiny_model("llama"), windows, "wanda:0.5+repair,guided")
    noted = {each.name for each in report.matrices if FEW in each.note}
    assert "model.layers.2.mlp.down_proj" in noted
    assert all(torch.isfinite(torch.tensor(each.error)) for each in report.matrices)


def test_outputs_that_are_not_finite_are_refused_with_the_model_as_it_was_measured() -> None:
    base = tiny_model("llama")
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.lm_head.weight[3] = torch.inf
        base.lm_head.weight[3] = torch.inf
    with pytest.raises(CompressionError, match=r"NaN or infinite at \d+ of"):
        gradients_of(base, model, make_batches(make_test_windows([8] * 2)))


def test_gradients_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model("llama")
    model = copy.deepcopy(base)
    compress(model, parse_arm("magnitude:0.5").steps[0])

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
            return values.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.nan

    model.model.layers[1].register_forward_hook(lambda _, __, out: Broken.apply(out))
    with pytest.raises(
        CompressionError, match=r"gradient of the final loss at model.layers.[01]\.\S+ is NaN"
    ):
        gradients_of(base, model, make_batches(make_test_windows([8] * 2)))


def test_a_second_copy_that_does_not_fit_is_refused_before_anything_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(guided, "_free_bytes", lambda device: 100)
    with pytest.raises(CompressionError, match="GB of memory are free"):
        repaired(model, make_test_windows([8] * 2), "wanda:0.5+repair,guided")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_after_a_refusal_the_model_is_base(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())

    def refuse(pruned: Any, *_: Any) -> None:
        assert (pruned.model.layers[2].mlp.down_proj.weight == 0).float().mean() == 0.5
        raise RefusedError("no")

    monkeypatch.setattr("anomia.compress.pipeline.token_gradients", refuse)
    with pytest.raises(RefusedError):
        repaired(model, make_test_windows([8] * 2), "wanda:0.5+repair,guided")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_that_give_all_logits_are_measured_alike() -> None:
    base = tiny_model("llama")
    model = copy.deepcopy(base)
    compress(model, parse_arm("magnitude:0.5").steps[0])
    batches = make_batches(with_answers(make_test_windows([12, 9]), (6, 7)))
    expected = gradients_of(base, model, batches)
    whole = type(model).forward

    def forward(self: Any, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return whole(self, input_ids=input_ids, use_cache=use_cache)

    with patch.object(type(model), "forward", forward):
        found = gradients_of(base, model, batches)
    for key, (mine,) in found.norms.items():
        torch.testing.assert_close(mine, expected.norms[key][0])


@pytest.mark.parametrize("family", sorted(MIXTURES))
def test_experts_stay_and_attention_is_guided(family: str) -> None:
    base = tiny_model(family)
    windows = make_test_windows([24] * 12)
    models = {}
    for option in ("", ",guided"):
        models[option] = copy.deepcopy(base)
        report = repaired(models[option], windows, f"wanda:0.5+repair{option}")
        noted = {each.name for each in report.matrices if NOT_PAIRED in each.note}
        assert noted
        assert all("expert" in name for name in noted)
    name = "model.layers.0.self_attn.q_proj.weight"
    one, other = (model.state_dict()[name] for model in models.values())
    assert torch.equal(one == 0, other == 0)
    assert not torch.equal(one, other)


def test_a_folder_is_the_model_in_memory_and_is_loaded_whole(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=12))
    steps = parse_arm("wanda:0.5+repair,guided").steps
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", steps, options)
    assert not report.streamed
    assert report.compression.step == "wanda:0.5+repair,guided=yes"
    plain = compress_folder(
        str(tmp_path / "in"), tmp_path / "plain", parse_arm("wanda:0.5+repair").steps, options
    )
    assert plain.streamed
    compress_folder(str(tmp_path / "in"), tmp_path / "pruned", parse_arm("wanda:0.5").steps, options)
    done = anomia(
        "repair", tmp_path / "in", tmp_path / "pruned", tmp_path / "again", "--guided",
        "--calibration", options.text.source, "--calibration-samples", "12",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out, again, pruned = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("out", "again", "pruned")
    )
    assert all(torch.equal(again[name] == 0, pruned[name] == 0) for name in again)
    # The same masks and the same loss in the first block.
    for name in out:
        if "layers.0." in name:
            torch.testing.assert_close(again[name], out[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("wanda:0.5+update,guided", "unknown option 'guided'"),
        ("wanda:0.5+dsnot,guided", "unknown option 'guided'"),
        ("wanda:0.5,guided+repair", "unknown option 'guided'"),
        ("taken:a,guided+repair", "unknown option 'guided'"),
        ("wanda:0.5+repair,guided=maybe", "unknown guided 'maybe'"),
        ("wanda:0.5+repair,guided=", "has no value"),
        ("wanda:0.5+repair,guided,guided=no", "given twice"),
        ("gptq:4,guided", "unknown option 'guided'"),
        ("ria:2:4,permute", "has no value"),
        ("int8+repair,guided", "right before it"),
    ],
)
def test_where_guidance_means_nothing_it_is_refused(arm: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        parse_arm(arm)


def test_names_are_read_back_and_plans_count_the_passes() -> None:
    arm = parse_arm("wanda:0.5+dsnot+repair,guided")
    assert str(arm) == "wanda:0.5+dsnot+repair,guided=yes"
    assert parse_arm(str(arm)) == arm
    assert unrepaired("wanda:0.5+repair,guided=yes", ["wanda:0.5", "wanda:0.5+repair"]) == "wanda:0.5"
    (guided_step,) = arm.steps
    (plain,) = parse_arm("wanda:0.5+dsnot+repair").steps
    (alone,) = parse_arm("wanda:0.5+dsnot").steps
    # Pruning once more, a pass of base, and three for a pass of the compressed model and back.
    assert passes_of(guided_step) == passes_of(plain) + passes_of(alone) + 4  # type: ignore[arg-type]
