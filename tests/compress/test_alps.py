from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.compress.apply import compress
from anomia.compress.methods.alps import alps
from anomia.compress.methods.sparsegpt import sparsegpt
from anomia.compress.methods.update import layer_error, masked_least_squares
from anomia.compress.methods.wanda import wanda_cut
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Pattern
from anomia.errors import CompressionError

from .conftest import make_test_windows, tiny_model
from .test_update import correlated_inputs


def published(weight: torch.Tensor, hessian: torch.Tensor, target: float | Pattern) -> np.ndarray:
    """ADMM with the published schedule of its penalty, in float64 NumPy with a solve a step. Returns the mask, [out, in]."""
    h = hessian.double().numpy().copy()
    h[np.diag_indices(len(h))] += 0.01 * h.diagonal().mean()
    norm = np.sqrt(h.diagonal())
    g = h / norm / norm[:, None]
    dense = weight.double().numpy() * norm

    def smallest(values: np.ndarray) -> np.ndarray:
        if isinstance(target, Pattern):
            parts = np.abs(values).reshape(-1, target.group)
            order = np.argsort(parts, axis=1, kind="stable")[:, : target.group - target.keep]
            mask = np.zeros(parts.shape, dtype=bool)
            np.put_along_axis(mask, order, True, axis=1)
            return mask.reshape(values.shape)
        mask = np.zeros(values.size, dtype=bool)
        mask[np.argsort(np.abs(values).ravel(), kind="stable")[: int(values.size * target)]] = True
        return mask.reshape(values.shape)

    rho, before = 0.1, smallest(dense)
    first = np.where(before, 0, dense)
    d, v, started = first, np.zeros_like(dense), False
    kept = (~before).sum()
    b = dense
    for step in range(300):
        b = np.linalg.solve(g + rho * np.eye(len(g)), (dense @ g - v + rho * d).T).T
        mask = smallest(b + v / rho)
        d = np.where(mask, 0, b + v / rho)
        v = v + rho * (b - d)
        if (step + 1) % 3 == 0:
            changed = (mask != before).sum()
            before = mask
            if changed / kept > 0.1:
                rho, started = rho * 1.3, True
            elif changed / kept > 0.005:
                rho, started = rho * 1.2, True
            elif changed and started:
                rho *= 1.1
            elif changed:
                rho, d, v = rho / 5, first, np.zeros_like(dense)
            elif started:
                break
            else:
                rho /= 5
            if step >= 30 and changed / kept < 0.0003:
                break
    return smallest(b)


@pytest.mark.parametrize("target", [0.5, 0.7, Pattern(2, 4)])
def test_masks_are_those_of_the_published_iteration(target: float | Pattern) -> None:
    inputs = correlated_inputs(48)
    weight = torch.randn(12, 48, generator=torch.Generator().manual_seed(3))
    hessian = inputs.T @ inputs
    found = alps([weight], hessian, target)
    expected = torch.from_numpy(published(weight, hessian, target))
    # Rounding moves a weight or two at the edge.
    assert int((found.masks[0] != expected).sum()) <= 4
    assert found.settled == [True]
    theirs = masked_least_squares([weight], [expected], hessian)
    assert found.updated.error_after[0] == pytest.approx(theirs.error_after[0], rel=0.05)


@pytest.mark.parametrize("target", [0.5, 0.7, Pattern(2, 4)])
def test_its_layer_error_is_the_lowest(target: float | Pattern) -> None:
    inputs = correlated_inputs(96)
    weight = torch.randn(32, 96, generator=torch.Generator().manual_seed(4))
    hessian = inputs.T @ inputs
    found = alps([weight], hessian, target)
    wanda = wanda_cut(weight, inputs.norm(dim=0), target).mask
    others = [
        masked_least_squares([weight], [wanda], hessian).error_after[0],
        layer_error(sparsegpt([weight], hessian, target).weights[0], weight, hessian),
    ]
    assert layer_error(found.updated.weights[0], weight, hessian) < 0.9 * min(others)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    groups=st.integers(1, 6),
    target=st.sampled_from([0.1, 0.5, 0.55, 0.9, Pattern(2, 4), Pattern(1, 4)]),
    tokens=st.integers(1, 30),
    dead=st.integers(0, 4),
    scale=st.sampled_from([1e-5, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_zeros_are_exactly_those_asked_for(
    seed: int,
    rows: int,
    groups: int,
    target: float | Pattern,
    tokens: int,
    dead: int,
    scale: float,
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, 4 * groups, generator=generator) * scale
    inputs[:, :dead] = 0
    weight = torch.randn(rows, 4 * groups, generator=generator).to(dtype)
    found = alps([weight], inputs.T @ inputs, target)
    mask, solved = found.masks[0], found.updated.weights[0]
    assert solved.dtype == dtype
    assert torch.isfinite(solved).all()
    assert (solved[mask] == 0).all()
    if isinstance(target, Pattern):
        assert (mask.view(rows, -1, 4).sum(dim=2) == 4 - target.keep).all()
    else:
        assert int(mask.sum()) == int(weight.numel() * target)


def test_uncorrelated_inputs_give_the_obvious_mask() -> None:
    # With a diagonal Hessian what costs least is w²·h, and nothing can make up for it.
    loud = torch.tensor([1.0, 4.0, 9.0, 16.0] * 8)
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    found = alps([weight], torch.diag(loud), 0.5)
    damped = loud + 0.01 * loud.mean()
    cost = (weight.square() * damped).flatten()
    expected = torch.zeros(256, dtype=torch.bool).index_fill(0, cost.argsort()[:128], True).view(8, 32)
    assert torch.equal(found.masks[0], expected)
    torch.testing.assert_close(found.updated.weights[0], weight.masked_fill(expected, 0))
    assert found.settled == [True]


def test_broken_input_is_refused() -> None:
    with pytest.raises(CompressionError, match="k_proj: weights or calibration activations are NaN"):
        alps([torch.ones(2, 4)], torch.full((4, 4), torch.nan), 0.5, where="k_proj")


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_whole_models_come_closer_to_dense_than_with_sparsegpt(family: str) -> None:
    windows = make_test_windows([60] * 12)
    probe = torch.tensor(windows.token_ids[:4])
    distances = {}
    with torch.no_grad():
        dense = tiny_model(family)(input_ids=probe).logits
        for method in ("sparsegpt", "alps"):
            model = tiny_model(family)
            report = compress(model, parse_arm(f"{method}:0.6").steps[0], windows)
            assert report.sparsity == pytest.approx(0.6, abs=0.02)
            distances[method] = float((model(input_ids=probe).logits - dense).pow(2).mean())
    assert distances["alps"] < distances["sparsegpt"]
