from __future__ import annotations

from typing import Any

import pytest
import torch

from anomia.compress.apply import compress
from anomia.compress.methods.magnitude import magnitude_cut
from anomia.compress.methods.sparsegpt import DAMPING, inverse_factor, sparsegpt
from anomia.compress.methods.wanda import wanda_cut
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Pattern
from anomia.errors import CompressionError

from .conftest import FAMILIES, make_test_windows, tiny_model


def correlated_inputs(columns: int, *, tokens: int = 2000, seed: int = 0) -> torch.Tensor:
    """[tokens, columns] with a decaying spectrum, as activations have."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -2, columns)
    return torch.randn(tokens, columns, generator=generator) @ mixing.T


def output_error(weight: torch.Tensor, pruned: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((weight - pruned).double() @ inputs.double().T).pow(2).sum())


def plain_reference(weight: torch.Tensor, hessian: torch.Tensor, target: Any) -> torch.Tensor:
    """The paper's equations, in float64, without lazy updates and without a Cholesky factor.

    Column after column: the error of what goes, over [H_F⁻¹]_qq, spread over the columns F that are left.
    """
    w = weight.double().clone()
    columns = w.shape[1]
    h = hessian.double() + DAMPING * hessian.double().diagonal().mean() * torch.eye(columns)
    mask = torch.zeros_like(w, dtype=torch.bool)
    inverse_diagonals = torch.stack([torch.linalg.inv(h[j:, j:])[0, 0] for j in range(columns)])
    for q in range(columns):
        if isinstance(target, Pattern):
            if q % target.group == 0:
                g = slice(q, q + target.group)
                order = (w[:, g] ** 2 / inverse_diagonals[g]).sort(dim=1, stable=True).indices
                mask[:, g].scatter_(1, order[:, : target.group - target.keep], True)
        elif q % 128 == 0:
            b = slice(q, q + 128)
            scores = w[:, b] ** 2 / inverse_diagonals[b]
            threshold = scores.flatten().sort().values[int(scores.numel() * target) - 1]
            mask[:, b] = scores <= threshold
        inverse = torch.linalg.inv(h[q:, q:])
        error = torch.where(mask[:, q], w[:, q], 0) / inverse[0, 0]
        w[:, q:] -= error[:, None] * inverse[0]
        w[:, q][mask[:, q]] = 0
    return w.float()


@pytest.mark.parametrize("target", [0.5, 0.7, Pattern(2, 4), Pattern(4, 8), Pattern(1, 3)])
def test_output_error_is_that_of_the_unblocked_reference(target: Any) -> None:
    columns = 192
    inputs = correlated_inputs(columns)
    weight = torch.randn(24, columns, generator=torch.Generator().manual_seed(3))
    hessian = inputs.T @ inputs
    solved = sparsegpt([weight], hessian, target)
    mine = output_error(weight, solved.weights[0], inputs)
    reference = output_error(weight, plain_reference(weight, hessian, target), inputs)
    assert mine <= reference * 1.01
    sparsity = target.sparsity if isinstance(target, Pattern) else target
    assert float((solved.weights[0] == 0).float().mean()) == pytest.approx(sparsity, abs=1e-3)


@pytest.mark.parametrize("target", [0.5, Pattern(2, 4)])
def test_sparsegpt_beats_wanda_beats_magnitude_on_correlated_inputs(target: Any) -> None:
    # In no order: columns that get louder from block to block defeat a threshold for each block.
    loudness = torch.logspace(-1, 1, 256)[torch.randperm(256, generator=torch.Generator().manual_seed(9))]
    inputs = correlated_inputs(256) * loudness
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(4))
    norms = inputs.pow(2).sum(0).sqrt()
    second_order = output_error(weight, sparsegpt([weight], inputs.T @ inputs, target).weights[0], inputs)
    wanda = output_error(weight, weight.masked_fill(wanda_cut(weight, norms, target).mask, 0), inputs)
    magnitude = output_error(weight, weight.masked_fill(magnitude_cut(weight, target).mask, 0), inputs)
    assert second_order < wanda < magnitude


def test_matrices_that_share_their_input_are_solved_as_if_alone() -> None:
    inputs = correlated_inputs(160)
    generator = torch.Generator().manual_seed(5)
    first, second = torch.randn(8, 160, generator=generator), 5 * torch.randn(24, 160, generator=generator)
    together = sparsegpt([first, second], inputs.T @ inputs, 0.5).weights
    for weight, mine in zip((first, second), together, strict=True):
        alone = sparsegpt([weight], inputs.T @ inputs, 0.5).weights[0]
        assert torch.equal(mine == 0, alone == 0)
        torch.testing.assert_close(mine, alone, rtol=1e-3, atol=1e-4)


def test_the_factor_is_that_of_the_inverse() -> None:
    inputs = correlated_inputs(40)
    hessian = inputs.T @ inputs
    factor, damping = inverse_factor(hessian, where="x")
    damped = hessian.double() + damping * hessian.diagonal().double().mean() * torch.eye(40)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close((factor.T @ factor).double(), torch.linalg.inv(damped), rtol=1e-3, atol=1e-5)


def test_dead_columns_become_zero_and_are_counted() -> None:
    inputs = correlated_inputs(32)
    inputs[:, [3, 17]] = 0
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(6))
    solved = sparsegpt([weight], inputs.T @ inputs, 0.5)
    assert solved.dead.nonzero().flatten().tolist() == [3, 17]
    assert (solved.weights[0][:, [3, 17]] == 0).all()
    assert torch.isfinite(solved.weights[0]).all()


def test_a_hessian_that_is_not_positive_definite_raises_the_damping() -> None:
    hessian = torch.eye(16)
    hessian[0, 1] = hessian[1, 0] = 1.05
    solved = sparsegpt([torch.ones(4, 16)], hessian, 0.5)
    assert solved.damping > DAMPING
    assert torch.isfinite(solved.weights[0]).all()


def test_hopeless_hessians_are_refused() -> None:
    with pytest.raises(CompressionError, match="q_proj: the calibration activations are not finite"):
        sparsegpt([torch.ones(2, 4)], torch.full((4, 4), torch.nan), 0.5, where="q_proj")
    impossible = torch.eye(4) + 9 * (1 - torch.eye(4)) * torch.tensor([[1.0, -1.0] * 2] * 4)
    with pytest.raises(CompressionError, match="can't be inverted"):
        sparsegpt([torch.ones(2, 4)], impossible, 0.5)


@pytest.mark.parametrize("family", [*FAMILIES, "mixtral"])
def test_whole_models_come_closer_to_dense_than_with_wanda(family: str) -> None:
    windows = make_test_windows([60] * 12)
    probe = torch.tensor(windows.token_ids[:4])
    distances = {}
    with torch.no_grad():
        dense = tiny_model(family)(input_ids=probe).logits
        for method in ("sparsegpt", "magnitude"):
            model = tiny_model(family)
            report = compress(model, parse_arm(f"{method}:0.5").steps[0], windows)
            assert report.sparsity == pytest.approx(0.5, abs=0.02)
            distances[method] = float((model(input_ids=probe).logits - dense).pow(2).mean())
    assert distances["sparsegpt"] < distances["magnitude"]


def test_a_singular_hessian_is_reported_by_the_run() -> None:
    # One window of six tokens can't excite sixteen inputs independently.
    report = compress(tiny_model("llama"), parse_arm("sparsegpt:0.5").steps[0], make_test_windows([6]))
    assert all(matrix.damping is not None and matrix.damping >= DAMPING for matrix in report.matrices)
    raised = [matrix for matrix in report.matrices if matrix.damping and matrix.damping > DAMPING]
    assert bool(raised) == any("damping raised" in warning for warning in report.warnings)
