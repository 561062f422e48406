"""Values that are NaN, infinite or too large end in one message, never in fewer zeros than were asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.calibration import Windows
from anomia.compress.methods.zeros import check_zeros
from anomia.compress.report import MatrixReport
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Pattern
from anomia.errors import CompressionError
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
