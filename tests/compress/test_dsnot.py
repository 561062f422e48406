from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.compress.apply import compress
from anomia.compress.methods.dsnot import CYCLES, THRESHOLD, dsnot
from anomia.compress.methods.masks import cut
from anomia.compress.methods.update import layer_error
from anomia.compress.methods.wanda import wanda_cut
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Pattern
from anomia.errors import CompressionError

from .conftest import make_test_windows, tiny_model


def problem(
    rows: int = 16, columns: int = 256, *, tokens: int = 300, seed: int = 0, shift: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight matrix and inputs [tokens, columns] whose means aren't zero."""
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.rand(columns, generator=generator) * 2 + 0.1
    inputs = (torch.randn(tokens, columns, generator=generator) + shift) * loudness
    return torch.randn(rows, columns, generator=generator) * 0.05, inputs


def row_by_row(
    weight: torch.Tensor, mask: torch.Tensor, inputs: torch.Tensor, group: int | None
) -> torch.Tensor:
    """The published procedure for one row after the other, in float64, with plain lists."""
    x = inputs.double()
    mean, variance, norm = x.mean(dim=0) * 2048, x.var(dim=0, correction=0), x.norm(dim=0)
    result = mask.clone()
    for row in range(len(weight)):
        w = weight[row].double()
        influence, salience = w * mean, w.abs() * norm
        start = float(influence[mask[row]].sum())
        error = start
        kept = set((~mask[row]).nonzero().flatten().tolist())
        pruned = set(mask[row].nonzero().flatten().tolist())
        for _ in range(CYCLES):
            sign = 1 if error > 0 else -1
            growing = [c for c in pruned if sign * float(influence[c]) > 0]
            if abs(error) <= THRESHOLD or not growing:
                break
            grown = max(growing, key=lambda c: abs(float(influence[c] / variance[c])))
            if group is None:
                dropping = [c for c in kept if sign * float(influence[c]) < 0]
            else:
                dropping = [c for c in kept if c // group == grown // group]
            pruned.discard(grown)
            if not dropping:
                if group is None:
                    break
                continue
            dropped = min(dropping, key=lambda c: float(salience[c]))
            following = error + float(influence[dropped] - influence[grown])
            if group is not None and following * start <= 0:
                break
            kept.discard(dropped)
            result[row, grown], result[row, dropped] = False, True
            error = following
    return result


@pytest.mark.parametrize("target", [0.5, 0.7, Pattern(2, 4), Pattern(4, 8), Pattern(1, 4)])
def test_swaps_are_those_of_the_published_procedure(target: float | Pattern) -> None:
    weight, inputs = problem()
    first = wanda_cut(weight, inputs.norm(dim=0), target).mask
    pattern = target if isinstance(target, Pattern) else None
    swapped = dsnot(
        weight, first, inputs.sum(dim=0), inputs.square().sum(dim=0), len(inputs), pattern=pattern
    )
    expected = row_by_row(weight, first, inputs, pattern.group if pattern else None)
    assert torch.equal(swapped.mask, expected)
    assert swapped.swaps == int((first & ~expected).sum()) > 20


@pytest.mark.parametrize("target", [0.5, 0.7])
def test_the_mean_output_comes_closer(target: float) -> None:
    weight, inputs = problem()
    mean = inputs.mean(dim=0)
    first = wanda_cut(weight, inputs.norm(dim=0), target).mask
    swapped = dsnot(weight, first, inputs.sum(dim=0), inputs.square().sum(dim=0), len(inputs)).mask
    before, after = ((weight.masked_fill(~m, 0) @ mean).abs() for m in (first, swapped))
    assert float(after.sum()) < 0.5 * float(before.sum())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    groups=st.integers(1, 8),
    pattern=st.sampled_from([None, Pattern(2, 4), Pattern(1, 4), Pattern(3, 4)]),
    dead=st.integers(0, 4),
    constant=st.booleans(),
    tokens=st.integers(1, 30),
)
def test_no_row_and_no_group_gets_more_or_fewer_zeros(
    seed: int, rows: int, groups: int, pattern: Pattern | None, dead: int, constant: bool, tokens: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = 4 * groups
    inputs = torch.randn(tokens, columns, generator=generator) + 1
    inputs[:, :dead] = 3.0 if constant else 0.0
    weight = torch.randn(rows, columns, generator=generator)
    mask = cut(torch.rand(rows, columns, generator=generator), pattern or 0.5).mask
    sums, squares = inputs.sum(dim=0), inputs.square().sum(dim=0)
    swapped = dsnot(weight, mask, sums, squares, tokens, pattern=pattern).mask
    assert torch.equal(swapped.sum(dim=1), mask.sum(dim=1))
    if pattern is not None:
        assert torch.equal(swapped.view(rows, -1, 4).sum(dim=2), mask.view(rows, -1, 4).sum(dim=2))
    if not constant:
        # An input that is always zero changes nothing, so it has nothing to swap.
        assert (
            torch.equal(swapped[:, :dead] & ~mask[:, :dead], torch.zeros_like(mask[:, :dead]))
            or pattern is not None
        )


def test_rows_may_have_masks_of_different_size() -> None:
    weight, inputs = problem(rows=4)
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[0, :10], mask[1, :200], mask[3] = True, True, True
    swapped = dsnot(weight, mask, inputs.sum(dim=0), inputs.square().sum(dim=0), len(inputs)).mask
    assert swapped.sum(dim=1).tolist() == [10, 200, 0, 256]
    assert torch.equal(swapped, row_by_row(weight, mask, inputs, None))


def test_cycles_limit_the_swaps_of_a_row() -> None:
    weight, inputs = problem()
    mask = wanda_cut(weight, inputs.norm(dim=0), 0.5).mask
    swapped = dsnot(weight, mask, inputs.sum(dim=0), inputs.square().sum(dim=0), len(inputs), cycles=3)
    assert int((swapped.mask & ~mask).sum(dim=1).max()) == 3


def test_broken_input_is_refused() -> None:
    weight, inputs = problem(rows=2, columns=8)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    sums, squares = inputs.sum(dim=0), inputs.square().sum(dim=0)
    with pytest.raises(CompressionError, match=r"up_proj: weights or calibration activations are NaN"):
        dsnot(weight, mask, sums * torch.nan, squares, 300, where="up_proj")
    with pytest.raises(CompressionError, match="keeps more than 2:4 allows"):
        dsnot(weight, mask, sums, squares, 300, pattern=Pattern(2, 4))


def test_a_model_keeps_dense_weights_and_its_zeros() -> None:
    dense = dict(tiny_model("llama").named_parameters())
    windows = make_test_windows([40] * 6)
    for arm, warned in (("wanda:0.5+dsnot", False), ("sparsegpt:2:4+dsnot,cycles=2", True)):
        model = tiny_model("llama")
        report = compress(model, parse_arm(arm).steps[0], windows)
        assert report.sparsity == pytest.approx(0.5)
        assert (
            any("kept weights are the dense ones again" in warning for warning in report.warnings) == warned
        )
        pruned = {matrix.name for matrix in report.matrices}
        for name, parameter in model.named_parameters():
            if name.removesuffix(".weight") in pruned:
                zero = parameter == 0
                assert torch.equal(parameter[~zero], dense[name][~zero])
                if warned:
                    assert (zero.view(len(zero), -1, 4).sum(dim=2) == 2).all()


def test_errors_that_grow_are_counted() -> None:
    """The swaps bring means closer; of outputs that vary more than their mean, the error can grow."""
    windows = make_test_windows([40] * 6)
    plain, swapped = (
        compress(tiny_model("llama"), parse_arm(arm).steps[0], windows)
        for arm in ("wanda:0.5+update", "wanda:0.5+dsnot")
    )
    mask = tiny_model("llama")
    block = mask.model.layers[0]
    inputs: list[torch.Tensor] = []
    block.mlp.down_proj.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0]))
    with torch.no_grad():
        for ids in windows.token_ids:
            mask(input_ids=torch.tensor([ids]), use_cache=False)
    x, weight = torch.cat(inputs), block.mlp.down_proj.weight.data
    first = wanda_cut(weight, x.norm(dim=0), 0.5).mask
    before = layer_error(weight.masked_fill(first, 0), weight, x.T @ x)
    after = {matrix.name: matrix for matrix in swapped.matrices}["model.layers.0.mlp.down_proj"]
    grew = "dsnot made the error of its output larger than the mask before it had"
    assert after.error is not None
    assert (grew in after.note) == (after.error > before)
    count = sum(grew in matrix.note for matrix in swapped.matrices)
    assert count > 0
    assert f"{count} matrices: {grew}" in swapped.warnings
    assert not any("larger" in warning for warning in plain.warnings)
