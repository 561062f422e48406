from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from anomia.compress.apply import compress, warnings_of
from anomia.compress.blocks import find_blocks
from anomia.compress.report import CompressionReport, MatrixReport, summary
from anomia.compress.spec import parse_arm
from anomia.errors import CompressionError
from anomia.models.tensors import file_names

from .conftest import FAMILIES, MIXTURES, make_test_windows, tiny_model

RAGGED = (40, 17, 33, 40, 5, 28)


def step_of(text: str) -> Any:
    return parse_arm(text).steps[0]


def linear_inputs(block: Any, run: Any) -> dict[str, torch.Tensor]:
    """Every linear layer's input while `run` is called, as [tokens, in]."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(
                args[0].reshape(-1, args[0].shape[-1])
            )
        )
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def oracle_wanda(model: Any, windows: Any, sparsity: float) -> None:
    """Wanda the plain way: whole forward passes, one window at a time, one block after the other."""
    for block in find_blocks(model).modules:

        def run() -> None:
            for ids in windows.token_ids:
                model(input_ids=torch.tensor([ids]), use_cache=False)

        for name, inputs in linear_inputs(block, run).items():
            module = block.get_submodule(name)
            weight = module.weight.data.T if isinstance(module, Conv1D) else module.weight.data
            scores = weight.abs() * inputs.double().pow(2).sum(0).sqrt().float()
            count = int(weight.shape[1] * sparsity)
            order = scores.sort(dim=1, stable=True).indices[:, :count]
            weight.scatter_(1, order, 0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_wanda_equals_whole_forward_passes_over_one_window_at_a_time(family: str) -> None:
    """Padding, batches, propagation of pruned outputs and shared statistics change no mask."""
    windows = make_test_windows(RAGGED)
    model, oracle = tiny_model(family), tiny_model(family)
    report = compress(model, step_of("wanda:0.5"), windows, batch_tokens=120)
    oracle_wanda(oracle, windows, 0.5)
    wrong = total = 0
    for mine, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
        wrong += int(((mine == 0) != (theirs == 0)).sum())
        total += mine.numel()
    assert wrong == 0
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    assert all(matrix.zeros == matrix.shape[0] * int(matrix.shape[1] * 0.5) for matrix in report.matrices)


@pytest.mark.parametrize("method", ["magnitude:0.5", "wanda:2:4"])
@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_only_the_blocks_matrices_change(family: str, method: str) -> None:
    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = compress(model, step_of(method), make_test_windows(RAGGED))
    touched = set()
    for name, value in model.state_dict().items():
        if not torch.equal(value, before[name]):
            touched.add(name)
            kept = value != 0
            assert torch.equal(value[kept], before[name][kept])
    pruned = {matrix.name.split("[")[0] for matrix in report.matrices}
    assert {name.removesuffix(".weight") for name in touched} == pruned
    assert not any("norm" in name or "ln_" in name or "bias" in name or "embed" in name for name in touched)
    assert "lm_head.weight" not in touched
    dense = {name for name, value in model.named_parameters() if value.dim() >= 2} - touched
    assert set(report.left_dense) == {n for names in file_names(model, dense).values() for n in names}


def test_the_second_block_sees_the_pruned_first() -> None:
    windows = make_test_windows(RAGGED)
    model = tiny_model("llama")
    dense = tiny_model("llama")
    compress(model, step_of("wanda:0.5"), windows)
    block = find_blocks(dense).modules[1]

    def run() -> None:
        for ids in windows.token_ids:
            dense(input_ids=torch.tensor([ids]), use_cache=False)

    inputs = linear_inputs(block, run)["mlp.down_proj"]
    weight = block.get_submodule("mlp.down_proj").weight.data
    order = (weight.abs() * inputs.pow(2).sum(0).sqrt()).sort(dim=1, stable=True).indices[:, :12]
    without_propagation = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, order, True)
    with_propagation = find_blocks(model).modules[1].get_submodule("mlp.down_proj").weight == 0
    assert not torch.equal(with_propagation, without_propagation)


@pytest.mark.parametrize("family", MIXTURES)
def test_every_expert_is_pruned_on_its_own_tokens(family: str) -> None:
    windows = make_test_windows(RAGGED)
    model, dense = tiny_model(family), tiny_model(family)
    report = compress(model, step_of("wanda:0.5"), windows)
    names = [m.name for m in report.matrices if m.name.startswith("model.layers.0") and "experts" in m.name]
    assert len(names) == 8
    # The first block is dense when observed: its experts' inputs are those of the dense model.
    experts = dense.model.layers[0].mlp.experts
    routed: dict[int, list[torch.Tensor]] = {}

    def record(_: Any, args: tuple[Any, ...]) -> None:
        hidden, chosen = args[0], args[1]
        for expert in range(4):
            routed.setdefault(expert, []).append(hidden[(chosen == expert).any(dim=1)])

    experts.register_forward_pre_hook(record)
    with torch.no_grad():
        for ids in windows.token_ids:
            dense(input_ids=torch.tensor([ids]), use_cache=False)
    for expert, parts in routed.items():
        weight = experts.gate_up_proj[expert]
        norms = torch.cat(parts).pow(2).sum(0).sqrt()
        order = (weight.abs() * norms).sort(dim=1, stable=True).indices[:, :8]
        expected = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, order, True)
        assert torch.equal(model.model.layers[0].mlp.experts.gate_up_proj[expert] == 0, expected)


def test_an_expert_that_no_token_reached_is_reported() -> None:
    model = tiny_model("qwen3_moe", num_experts=16, num_experts_per_tok=1)
    report = compress(model, step_of("wanda:0.5"), make_test_windows([3]))
    assert any("no calibration token reached it" in warning for warning in report.warnings)
    assert all(matrix.sparsity == pytest.approx(0.5, abs=0.05) for matrix in report.matrices)


def test_a_stack_of_matrices_that_is_multiplied_in_another_shape_is_refused_by_name() -> None:
    model = tiny_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.register_parameter("bank", torch.nn.Parameter(torch.randn(16, 4, 4)))
    inner = mlp.forward

    def in_fours(hidden: torch.Tensor) -> torch.Tensor:
        parts = torch.einsum("bthi,hio->btho", hidden.unflatten(-1, (4, 4)), mlp.bank.view(4, 4, 16))
        return inner(hidden) + parts.sum(2)

    mlp.forward = in_fours
    before = model.state_dict()["model.layers.0.mlp.up_proj.weight"].clone()
    with pytest.raises(CompressionError, match=r"model\.layers\.1\.mlp\.bank .* stack of 16 matrices"):
        compress(model, step_of("wanda:0.5"), make_test_windows([8]))
    assert torch.equal(model.state_dict()["model.layers.0.mlp.up_proj.weight"], before)


def test_a_matrix_that_is_stored_as_a_stack_is_pruned_as_it_is_multiplied() -> None:
    model = tiny_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.register_parameter("bank", torch.nn.Parameter(torch.randn(16, 4, 4)))
    inner = mlp.forward
    mlp.forward = lambda hidden: inner(hidden) + hidden @ mlp.bank.view(16, 16)
    dense = mlp.bank.detach().clone().view(16, 16)
    compress(model, step_of("magnitude:0.5"), None)
    kept = mlp.bank.view(16, 16) != 0
    assert int(kept.sum()) == 128
    assert dense.abs()[kept].min() >= dense.abs()[~kept].max()


def test_a_pattern_that_does_not_divide_is_refused_before_any_work() -> None:
    model = tiny_model("llama", intermediate_size=26)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CompressionError, match=r"mlp\.down_proj has 26 inputs, which 2:4 can't divide"):
        compress(model, step_of("wanda:2:4"), make_test_windows([8]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_calibrated_methods_ask_for_calibration() -> None:
    with pytest.raises(CompressionError, match="needs calibration text"):
        compress(tiny_model("llama"), step_of("wanda:0.5"))


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_batch_size_changes_no_mask(batch_tokens: int) -> None:
    windows = make_test_windows(RAGGED)
    model, other = tiny_model("gemma3"), tiny_model("gemma3")
    compress(model, step_of("wanda:0.5"), windows, batch_tokens=200)
    compress(other, step_of("wanda:0.5"), windows, batch_tokens=batch_tokens)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine == 0, theirs == 0)


def test_the_same_step_twice_gives_the_same_bits() -> None:
    windows = make_test_windows(RAGGED)
    first, second = tiny_model("qwen3"), tiny_model("qwen3")
    compress(first, step_of("wanda:0.5"), windows)
    compress(second, step_of("wanda:0.5"), windows)
    for mine, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_model_is_left_as_it_was_otherwise() -> None:
    model = tiny_model("mixtral")
    model.set_experts_implementation("batched_mm")
    model.train()
    compress(model, step_of("wanda:0.5"), make_test_windows(RAGGED))
    assert model.training
    assert model.config._experts_implementation == "batched_mm"
    assert all("forward" not in block.__dict__ for block in find_blocks(model).modules)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_progress_counts_blocks() -> None:
    calls: list[tuple[int, int]] = []
    compress(
        tiny_model("llama"),
        step_of("wanda:0.5"),
        make_test_windows([9]),
        progress=lambda done, count: calls.append((done, count)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_blocks_that_depend_on_more_than_their_inputs_are_observed_in_whole_passes() -> None:
    model = tiny_model("llama")
    windows = make_test_windows(RAGGED)
    first, last = model.model.layers[0], model.model.layers[2]
    shared: list[torch.Tensor] = []
    inner, outer = first.self_attn.forward, last.forward

    def remember(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        shared[:] = [out[0].detach()]
        return out

    def add_shared(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return outer(hidden + shared[0], *args, **kwargs)

    first.self_attn.forward = remember
    last.__class__ = type(
        "SharingLayer", (type(last),), {"forward": lambda self, *a, **k: add_shared(*a, **k)}
    )
    report = compress(model, step_of("wanda:0.5"), windows)
    assert any("depend on more than their inputs" in warning for warning in report.warnings)
    assert all(matrix.zeros == matrix.shape[0] * int(matrix.shape[1] * 0.5) for matrix in report.matrices)


def test_a_count_of_one_is_singular() -> None:
    reports = [
        MatrixReport(name, (2, 2), 0, note=note) for name, note in (("a", "x"), ("b", "y"), ("c", "y"))
    ]
    (step,) = parse_arm("wanda:0.5").steps
    assert warnings_of(step, None, reports) == ("1 matrix: x", "2 matrices: y")


def output_errors(model: Any, dense: Any, windows: Any, names: set[str]) -> dict[str, float]:
    """‖X(W−Ŵ)‖²/‖XW‖² from the inputs themselves; of the first block, which sees the same states in both models."""
    found = {}
    for name in names:
        inputs: list[torch.Tensor] = []
        layer, changed = dense.get_submodule(name), model.get_submodule(name)
        handle = layer.register_forward_pre_hook(lambda _, args, seen=inputs: seen.append(args[0].double()))
        with torch.no_grad():
            for ids in windows.token_ids:
                dense(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
        x = torch.cat([part.reshape(-1, part.shape[-1]) for part in inputs])
        full, other = (x @ each.weight.detach().double().T for each in (layer, changed))
        found[name] = float((full - other).square().sum() / full.square().sum())
    return found


@pytest.mark.parametrize(
    "arm", ["sparsegpt:0.5", "alps:0.5", "gptq:4,group=8", "wanda:0.5+update", "wanda:0.5+dsnot"]
)
def test_the_error_of_each_matrix_is_that_of_its_outputs(arm: str) -> None:
    model, windows = tiny_model("llama"), make_test_windows([40, 31, 40])
    (step,) = parse_arm(arm).steps
    report = compress(model, step, windows)
    errors = {matrix.name: matrix.error for matrix in report.matrices if ".0." in matrix.name}
    expected = output_errors(model, tiny_model("llama"), windows, set(errors))
    assert errors == {name: pytest.approx(value, rel=1e-3) for name, value in expected.items()}
    assert report.mean_error is not None
    assert f"mean error of a matrix's output {report.mean_error:.2%}" in summary(report)
    assert CompressionReport.from_dict(json.loads(json.dumps(report.to_dict()))).matrices == report.matrices


def test_awqs_error_is_that_of_the_scaled_weights_and_methods_without_a_hessian_have_none() -> None:
    windows = make_test_windows([40, 31])
    (awq,), (wanda,) = parse_arm("awq:4,group=8").steps, parse_arm("wanda:0.5").steps
    rounded = compress(tiny_model("llama"), awq, windows)
    assert all(matrix.error is not None and 0 < matrix.error < 0.1 for matrix in rounded.matrices)
    pruned = compress(tiny_model("llama"), wanda, windows)
    assert {matrix.error for matrix in pruned.matrices} == {None}
    assert "error" not in summary(pruned)


@pytest.mark.parametrize(
    ("arm", "tokens", "told"),
    [
        ("wanda:0.5", 127, "only 127 tokens"),
        ("wanda:0.5", 128, ""),
        ("sparsegpt:0.5", 299, "fewer than the 300 inputs"),
        ("gptq:4,group=8", 299, "fewer than the 300 inputs"),
        ("wanda:0.5+update", 299, "fewer than the 300 inputs"),
        ("sparsegpt:0.5", 300, ""),
        ("awq:4", 100, "fewer than the 300 inputs"),
        ("flap:0.2", 100, "only 100 tokens"),
    ],
)
def test_a_calibration_text_that_is_too_short_is_told(arm: str, tokens: int, told: str) -> None:
    (step,) = parse_arm(arm).steps
    matrices = [MatrixReport("a", (16, 300), 0), MatrixReport("b", (300, 16), 0)]
    warnings = warnings_of(step, make_test_windows([tokens]), [] if arm.startswith("flap") else matrices)
    assert [told in warning for warning in warnings if "calibration text" in warning] == [True] * bool(told)
