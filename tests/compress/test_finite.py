"""Values that are NaN, infinite or too large end in one message, never in fewer zeros than were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from anomia.compress.allocation import outlier_ratio
from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.calibration import Windows, make_batches
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.masks import lowest
from anomia.compress.methods.prunerzero import prunerzero_cut
from anomia.compress.methods.zeros import TIES, check_zeros
from anomia.compress.report import MatrixReport
from anomia.compress.shards import check_finite
from anomia.compress.spec import parse_arm
from anomia.compress.statistics import InputStatistic, SharedInput
from anomia.compress.steps import Pattern
from anomia.compress.walk import try_walk
from anomia.errors import CompressionError, RefusedError
from tests.compress.conftest import make_test_windows, tiny_model

Make = Callable[..., Any]


@pytest.fixture
def windows() -> Windows:
    """Eight windows in two languages."""
    made = make_test_windows([24] * 8)
    return replace(made, languages=("english", "russian") * 4)


@pytest.fixture
def make_model() -> Make:
    return lambda: tiny_model("llama")


def pruned(model: Any, arm: str, windows: Windows) -> Any:
    (step,) = parse_arm(arm).steps
    return compress(model, step, None if arm.startswith("magnitude") else windows)


@pytest.mark.parametrize(
    "arm", ["wanda:0.5", "wanda:2:4", "wanda:0.5,allocation=owl", "sparsegpt:0.5", "mwanda:0.5"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_activations_that_are_no_numbers_are_refused(
    make_model: Make, windows: Windows, arm: str, value: float
) -> None:
    """1e25 is a float32 whose square is not."""
    model = make_model()
    (second,) = (block for n, block in enumerate(find_blocks(model).modules) if n == 1)
    second.input_layernorm.weight.data.fill_(value)
    with pytest.raises(CompressionError, match=r"NaN, infinite or too large.*--dtype bfloat16 or float32"):
        pruned(model, arm, windows)


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "sparsegpt:0.5"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    make_model: Make, windows: Windows, arm: str, value: float
) -> None:
    model = make_model()
    # The last matrix of the last block: its activations go nowhere else.
    find_blocks(model).modules[-1].mlp.down_proj.weight.data[0, 0] = value
    with pytest.raises(CompressionError, match=r"1 of .* values that are NaN or infinite"):
        pruned(model, arm, windows)


@pytest.mark.parametrize(
    "arm", ["magnitude:0.5", "wanda:0.25", "wanda:2:4", "sparsegpt:0.75", "sparsegpt:4:8", "mwanda:0.5"]
)
def test_every_matrix_has_the_zeros_that_were_asked_for(make_model: Make, windows: Windows, arm: str) -> None:
    report = pruned(make_model(), arm, windows)
    (step,) = parse_arm(arm).steps
    for matrix in report.matrices:
        wanted = step.target.sparsity if isinstance(step.target, Pattern) else step.target
        if "mwanda" not in arm:
            assert matrix.sparsity == pytest.approx(wanted, abs=0.02)


def test_too_few_zeros_are_an_error() -> None:
    for target in (0.5, Pattern(2, 4)):
        check_zeros(MatrixReport("m", (10, 100), 500), target, "block")
        with pytest.raises(
            CompressionError, match=r"block\.m has 480 zeros after pruning where 500 were asked for"
        ):
            check_zeros(MatrixReport("m", (10, 100), 480), target, "block")


def test_a_model_in_float16_that_overflows_ends_in_one_message(make_model: Make, windows: Windows) -> None:
    model = make_model().half()
    find_blocks(model).modules[0].mlp.up_proj.weight.data.fill_(6e4)
    find_blocks(model).modules[0].mlp.gate_proj.weight.data.fill_(6e4)
    assert not torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    with pytest.raises(CompressionError, match="wider type"):
        pruned(model, "wanda:0.5", windows)


def _blocks(model: Any) -> Any:
    return find_blocks(model).modules


def _notes(report: Any, part: str) -> set[str]:
    return {matrix.note for matrix in report.matrices if part in matrix.name}


@pytest.mark.parametrize(
    "arm", ["magnitude:0.5", "wanda:0.5", "wanda:2:4", "sparsegpt:0.5", "ria:0.5", "mwanda:0.5"]
)
def test_what_was_asked_for_needs_no_note(make_model: Make, windows: Windows, arm: str) -> None:
    report = pruned(make_model(), arm, windows)
    assert {matrix.note for matrix in report.matrices} == {""}


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "sparsegpt:0.5", "wanda:2:4"])
def test_zeros_that_were_there_before_are_named(make_model: Make, windows: Windows, arm: str) -> None:
    model = make_model()
    for block in _blocks(model):
        weight = block.mlp.up_proj.weight.data
        weight[weight.abs() < weight.abs().flatten().kthvalue(int(weight.numel() * 0.8)).values] = 0
    report = pruned(model, arm, windows)
    (note,) = _notes(report, "up_proj")
    assert note.startswith("more zeros than asked for: weights were zero before")
    assert _notes(report, "q_proj") == {""}
    assert any(warning.startswith("3 matrices: more zeros") for warning in report.warnings)


def test_weights_too_small_for_float16_are_named(make_model: Make, windows: Windows) -> None:
    model = make_model()
    _blocks(model)[1].mlp.down_proj.weight.data *= 1e-9
    report = pruned(model.half(), "wanda:0.5", windows)
    assert [m.name for m in report.matrices if "as they are loaded (float16)" in m.note] == [
        "model.layers.1.mlp.down_proj"
    ]
    assert max(m.sparsity for m in report.matrices) == 1


@pytest.mark.parametrize(
    ("arm", "noted"), [("sparsegpt:0.3", True), ("wanda:0.3", False), ("sparsegpt:0.5", False)]
)
def test_dead_inputs_that_lose_more_than_was_asked_for_are_named(
    make_model: Make, windows: Windows, arm: str, noted: bool
) -> None:
    """Six of 16 inputs: SparseGPT removes all their weights, 37.5 %."""
    model = make_model()
    _blocks(model)[1].input_layernorm.weight.data[:6] = 0
    report = pruned(model, arm, windows)
    (matrix,) = (m for m in report.matrices if m.name == "model.layers.1.self_attn.q_proj")
    assert matrix.dead_columns == 6
    assert ("inputs that no calibration token excited" in matrix.note) == noted
    assert (matrix.sparsity > 0.32) == (noted or "0.5" in arm)


@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "gptq:4,group=8", "mwanda:0.5"])
@pytest.mark.parametrize("scale", [1e-24, 0.0])
def test_inputs_whose_squares_are_zero_are_not_scored(
    make_model: Make, windows: Windows, arm: str, scale: float
) -> None:
    """Every score would be the same: the first columns would go, whatever the weights."""
    model = make_model()
    _blocks(model)[1].input_layernorm.weight.data *= scale
    report = pruned(model, arm, windows)
    named = [m.name for m in report.matrices if m.note.startswith("its inputs are all zero")]
    assert named == [f"model.layers.1.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    assert any("4 matrices: its inputs are all zero" in warning for warning in report.warnings)
    weight = _blocks(model)[1].self_attn.q_proj.weight
    if "gptq" not in arm:
        assert not torch.equal((weight == 0).float().mean(dim=0), (weight == 0).float().mean(dim=0).round())


@pytest.mark.parametrize("arm", ["wanda:0.05", "magnitude:0.001", "sparsegpt:0.001", "ria:0.001"])
def test_a_sparsity_below_one_weight_is_named(make_model: Make, windows: Windows, arm: str) -> None:
    report = pruned(make_model(), arm, windows)
    nothing = [matrix for matrix in report.matrices if not matrix.zeros]
    assert nothing
    assert all(matrix.note.startswith("nothing was pruned") for matrix in nothing)
    assert all(not matrix.note for matrix in report.matrices if matrix.zeros)


@pytest.mark.parametrize("arm", ["shortgpt:0.34", "flap:0.2", "slicegpt:0.2"])
def test_reshaping_names_states_that_are_no_numbers(make_model: Make, windows: Windows, arm: str) -> None:
    """Not "blocks depend on more than their inputs": NaN differs from NaN."""
    model = make_model()
    _blocks(model)[1].mlp.down_proj.weight.data *= 3e38
    with pytest.raises(
        CompressionError, match=r"leave model\.layers\.1 are NaN or infinite in .*float32 is too narrow"
    ):
        pruned(model, arm, windows)
    model = make_model()
    _blocks(model)[0].mlp.down_proj.weight.data[3, 2] = float("nan")
    with pytest.raises(
        CompressionError, match=r"layers\.0\.mlp\.down_proj\.weight has 1 of 384 values that are NaN"
    ):
        pruned(model, arm, windows)


def test_states_that_are_no_numbers_are_no_fault_of_the_walk(make_model: Make, windows: Windows) -> None:
    model = make_model()
    _blocks(model)[1].input_layernorm.weight.data[:] = float("inf")
    tried = try_walk(model, find_blocks(model), make_batches(windows)[0])
    assert (tried.fault, tried.padded) == ("", True)


@pytest.mark.parametrize("arm", ["wanda:0.5", "sparsegpt:0.5", "shortgpt:0.34", "prunerzero:0.5"])
def test_text_that_the_model_has_no_place_for_is_named(make_model: Make, arm: str) -> None:
    with pytest.raises(
        CompressionError, match=r"the id 1\d\d on the calibration text, .* embeddings for 96 tokens"
    ):
        pruned(make_model(), arm, make_test_windows([24] * 4, vocabulary=200))
    gpt2 = tiny_model("gpt2")
    message = r"has 150 tokens, and GPT2LMHeadModel has 128 positions.*--calibration-tokens 128"
    with pytest.raises(CompressionError, match=message):
        pruned(gpt2, arm, make_test_windows([24, 150]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_large_tensor_is_checked_in_pieces(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """`isfinite` of a whole embedding took more memory than any method."""
    values = torch.zeros(3, 1 << 21)
    values[0, 0] = values[2, -1] = float("nan")
    sizes, plain = [], torch.isfinite
    monkeypatch.setattr(torch, "isfinite", lambda part: sizes.append(part.numel()) or plain(part))
    with pytest.raises(RefusedError, match=r"embed has 2 of 6,291,456 values"):
        check_finite({"embed": values.to(dtype)})
    assert sum(sizes) == values.numel()
    assert max(sizes) <= 1 << 22


TINY = 2.0**-100


@pytest.mark.parametrize(
    "arm",
    ["wanda:0.5", "wanda:2:4", "mwanda:2:4", "ria:0.5", "sparsegpt:0.5", "wandapp:0.5"],
)
def test_small_weights_and_inputs_get_the_masks_of_large_ones(
    make_model: Make, windows: Windows, arm: str
) -> None:
    """A product of 1e-30 and 1e-15 has almost no bits left in float32: all scores would be equal, and order would choose."""
    masks = []
    for weights, inputs in ((1.0, 1.0), (TINY, 2.0**-50)):
        model = make_model()
        block = _blocks(model)[1]
        block.input_layernorm.weight.data *= inputs
        for name in ("q_proj", "k_proj"):
            block.self_attn.get_submodule(name).weight.data *= weights
        # The same residual stream in both.
        block.self_attn.o_proj.weight.data.zero_()
        report = pruned(model, arm, windows)
        masks.append(block.self_attn.q_proj.weight == 0)
    assert torch.equal(*masks)
    assert _notes(report, "1.self_attn.q_proj") == {""}


def test_a_metric_with_squares_does_not_underflow() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(8, 16, generator=generator), torch.rand(8, 16, generator=generator)
    masks = [prunerzero_cut(weight * scale, gradient, 0.5).mask for scale in (1.0, TINY)]
    assert torch.equal(*masks)


def test_outliers_of_small_weights_are_found() -> None:
    weight = torch.rand(8, 16, generator=torch.Generator().manual_seed(0))
    weight[0, 0] = 100
    statistic = InputStatistic(torch.full((16,), 2.0**-100), tokens=4)
    ratios = [
        outlier_ratio([SharedInput((WeightMatrix("m", weight * scale),), statistic)]) for scale in (1.0, TINY)
    ]
    assert ratios[0] == ratios[1] > 0


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "ria:0.5", "magnitude:2:4"])
def test_a_cut_that_order_decides_is_named(make_model: Make, windows: Windows, arm: str) -> None:
    """Weights of one size, as in ternary models; inputs are equal too."""
    model = make_model()
    block = _blocks(model)[1]
    block.mlp.up_proj.weight.data.sign_()
    assert {matrix.note for matrix in pruned(make_model(), arm, windows).matrices} == {""}
    report = pruned(model, arm, windows)
    tied = {m.name for m in report.matrices if m.note == TIES}
    assert tied == (set() if arm == "wanda:0.5" or arm == "ria:0.5" else {"model.layers.1.mlp.up_proj"})
    assert any(f"1 matrix: {TIES}" in warning for warning in report.warnings) == bool(tied)


def test_weights_that_are_zero_are_no_ties() -> None:
    assert lowest(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), 2).by_order == 0
    assert lowest(torch.tensor([[1.0, 1.0, 1.0, 0.5]]), 2).by_order == 1
    assert lowest(torch.tensor([[1.0, 1.0, 2.0, 2.0]]), 2).by_order == 0
