from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.compress.methods.masks import cut
from anomia.compress.methods.sparsegpt import DAMPING, sparsegpt
from anomia.compress.methods.update import (
    ADMM_DAMPING,
    ADMM_ITERATIONS,
    ITERATIONS,
    SOLVERS,
    TOLERANCE,
    layer_error,
    masked_least_squares,
)
from anomia.compress.methods.wanda import wanda_cut
from anomia.compress.steps import Pattern
from anomia.errors import CompressionError


def correlated_inputs(columns: int, *, tokens: int = 2000, seed: int = 0) -> torch.Tensor:
    """[tokens, columns] with a decaying spectrum, as activations have."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -2, columns)
    return torch.randn(tokens, columns, generator=generator) @ mixing.T


def output_error(weight: torch.Tensor, pruned: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((weight.double() - pruned.double()) @ inputs.double().T).pow(2).sum())


def exact(weight: torch.Tensor, mask: torch.Tensor, inputs: torch.Tensor, damping: float) -> torch.Tensor:
    """Row by row with LAPACK on the kept columns of the inputs, in float64; damping as further tokens."""
    columns = weight.shape[1]
    rows = np.vstack([inputs.double().numpy(), np.sqrt(damping) * np.eye(columns)])
    solved = np.zeros(weight.shape)
    for row, (w, gone) in enumerate(zip(weight.double().numpy(), mask.numpy(), strict=True)):
        if not gone.all():
            solved[row, ~gone] = np.linalg.lstsq(rows[:, ~gone], rows @ w, rcond=None)[0]
    return torch.from_numpy(solved)


def problem(
    rows: int = 12, columns: int = 48, *, sparsity: float = 0.5, seed: int = 1
) -> tuple[torch.Tensor, ...]:
    """A weight matrix, its Wanda mask and the inputs [tokens, columns]."""
    inputs = correlated_inputs(columns, tokens=500, seed=seed)
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed + 100))
    return weight, wanda_cut(weight, inputs.norm(dim=0), sparsity).mask, inputs


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_conjugate_gradients_find_the_exact_solution_of_every_row(
    sparsity: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, mask, inputs = problem(sparsity=sparsity)
    hessian = inputs.T @ inputs
    usual = masked_least_squares([weight], [mask], hessian)
    expected = exact(weight, mask, inputs, DAMPING * float(hessian.diagonal().mean()))
    assert usual.converged
    assert usual.iterations < ITERATIONS
    best = output_error(weight, expected, inputs)
    assert output_error(weight, usual.weights[0], inputs) == pytest.approx(best, rel=1e-2)
    assert (usual.weights[0][mask] == 0).all()
    monkeypatch.setattr("anomia.compress.methods.update.TOLERANCE", 1e-6)
    close = masked_least_squares([weight], [mask], hessian, iterations=200)
    torch.testing.assert_close(close.weights[0].double(), expected, rtol=1e-3, atol=1e-4)


def test_admm_is_the_published_iteration_and_comes_close_to_the_exact_solution() -> None:
    weight, mask, inputs = problem()
    hessian = (inputs.T @ inputs).double()
    # Algorithm 1 with a matrix inverse, in float64, weights as columns.
    norm = hessian.diagonal().sqrt()
    gram = hessian / norm / norm[:, None] + ADMM_DAMPING * torch.eye(48)
    w = (weight.double() * norm).T
    keep, aim, u = (~mask).T, gram @ w, torch.zeros_like(w)
    inverse = torch.linalg.inv(gram + torch.eye(48))
    for _ in range(ADMM_ITERATIONS):
        z = (w + u) * keep
        u = u + w - z
        w = inverse @ (aim + z - u)
    expected = ((w + u) * keep).T / norm
    solved = masked_least_squares([weight], [mask], hessian.float(), solver="admm")
    torch.testing.assert_close(solved.weights[0].double(), expected, rtol=1e-3, atol=1e-3)
    long = masked_least_squares([weight], [mask], hessian.float(), solver="admm", iterations=3000)
    # The damping is relative to each input here, so it is a weight for each one.
    rows = np.vstack([inputs.double().numpy(), np.diag((ADMM_DAMPING**0.5 * norm).numpy())])
    for row in range(3):
        kept = ~mask[row].numpy()
        best = np.linalg.lstsq(rows[:, kept], rows @ weight[row].double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(long.weights[0][row].numpy()[kept], best, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_update_beats_the_mask_alone_and_reports_both_errors(solver: str) -> None:
    weight, mask, inputs = problem(24, 64, sparsity=0.6)
    hessian = inputs.T @ inputs
    solved = masked_least_squares([weight], [mask], hessian, solver=solver)
    masked = weight.masked_fill(mask, 0)
    full = float((weight @ inputs.T).pow(2).sum())
    assert solved.error_before[0] == pytest.approx(output_error(weight, masked, inputs) / full, rel=1e-3)
    assert solved.error_after[0] == pytest.approx(
        output_error(weight, solved.weights[0], inputs) / full, rel=1e-2
    )
    assert solved.error_after[0] < 0.7 * solved.error_before[0]
    assert layer_error(masked, weight, hessian) == pytest.approx(solved.error_before[0], rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    columns=st.integers(1, 24),
    tokens=st.integers(1, 40),
    dead=st.integers(0, 3),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    sparsity=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    solver=st.sampled_from(SOLVERS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    started=st.booleans(),
)
def test_no_row_gets_worse(
    seed: int,
    rows: int,
    columns: int,
    tokens: int,
    dead: int,
    scale: float,
    sparsity: float,
    solver: str,
    dtype: torch.dtype,
    started: bool,
) -> None:
    # Also with fewer tokens than inputs, inputs that were never excited, and rounding to half precision.
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, columns, generator=generator) * scale
    inputs[:, :dead] = 0
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    mask = cut(torch.rand(rows, columns, generator=generator), sparsity).mask
    start = weight.masked_fill(mask, 0)
    if started:
        start = (start.float() * torch.rand(rows, columns, generator=generator)).to(dtype)
    solved = masked_least_squares([weight], [mask], inputs.T @ inputs, start=[start], solver=solver).weights[
        0
    ]
    assert solved.dtype == dtype
    assert torch.isfinite(solved).all()
    assert (solved[mask] == 0).all()
    before = ((start.double() - weight.double()) @ inputs.T.double()).square().sum(dim=1)
    after = ((solved.double() - weight.double()) @ inputs.T.double()).square().sum(dim=1)
    norm = (weight.double() @ inputs.T.double()).square().sum(dim=1)
    assert (after <= before * (1 + 1e-4) + 1e-5 * norm).all()


@pytest.mark.parametrize("target", [0.5, Pattern(2, 4)])
def test_sparsegpt_comes_closer_with_an_update_behind_it(target: float | Pattern) -> None:
    inputs = correlated_inputs(96)
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(3))
    hessian = inputs.T @ inputs
    first = sparsegpt([weight], hessian, target).weights[0]
    mask = first == 0
    solved = masked_least_squares([weight], [mask], hessian, start=[first])
    assert solved.error_before[0] == pytest.approx(layer_error(first, weight, hessian), rel=1e-4)
    assert solved.error_after[0] < solved.error_before[0]
    assert torch.equal(solved.weights[0] == 0, mask)


def test_what_no_token_says_anything_about_stays_dense() -> None:
    weight, _, inputs = problem(4, 16)
    inputs[:, [2, 9]] = 0
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, ::4] = True
    for solver in SOLVERS:
        solved = masked_least_squares([weight], [mask], inputs.T @ inputs, solver=solver).weights[0]
        torch.testing.assert_close(solved[:, [2, 9]], weight[:, [2, 9]])
        nothing = masked_least_squares([weight], [mask], torch.zeros(16, 16), solver=solver)
        torch.testing.assert_close(nothing.weights[0], weight.masked_fill(mask, 0))


def test_strips_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, mask, inputs = problem(11, 32)
    monkeypatch.setattr("anomia.compress.methods.update.TOLERANCE", 1e-6)
    together = masked_least_squares([weight], [mask], inputs.T @ inputs, iterations=200)
    monkeypatch.setattr("anomia.compress.methods.update._ROWS", 3)
    strips = masked_least_squares([weight], [mask], inputs.T @ inputs, iterations=200)
    torch.testing.assert_close(strips.weights[0], together.weights[0], rtol=1e-3, atol=1e-4)
    assert strips.error_after[0] == pytest.approx(together.error_after[0], rel=1e-3)


def test_transposed_views_are_read_as_they_are() -> None:
    weight, mask, inputs = problem(8, 24)
    stored = weight.T.contiguous()
    solved = masked_least_squares([stored.T], [mask], inputs.T @ inputs).weights[0]
    torch.testing.assert_close(solved, masked_least_squares([weight], [mask], inputs.T @ inputs).weights[0])


def test_an_unfinished_solution_says_so() -> None:
    weight, mask, inputs = problem(12, 48)
    solved = masked_least_squares([weight], [mask], inputs.T @ inputs, iterations=2)
    assert solved.iterations == 2
    assert not solved.converged
    assert solved.residual[0] > TOLERANCE


def test_broken_input_is_refused() -> None:
    weight, mask, inputs = problem(4, 8)
    hessian = inputs.T @ inputs
    broken = weight.clone()
    broken[1, 2] = torch.nan
    with pytest.raises(CompressionError, match=r"q_proj: weights or calibration activations are NaN"):
        masked_least_squares([broken], [mask], hessian, where="q_proj")
    with pytest.raises(CompressionError, match="NaN or infinite"):
        masked_least_squares([weight], [mask], hessian.fill_diagonal_(torch.inf))
    with pytest.raises(CompressionError, match="aren't zero where the mask is"):
        masked_least_squares([weight], [mask], inputs.T @ inputs, start=[weight])
    with pytest.raises(CompressionError, match="unknown solver 'sgd'"):
        masked_least_squares([weight], [mask], inputs.T @ inputs, solver="sgd")
