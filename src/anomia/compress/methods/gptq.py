"""GPTQ: quantize column after column, and compensate each error in the later columns (Frantar et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from anomia.compress.matrices import WeightMatrix, layer_of
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.grid import (
    Grid,
    Quantized,
    fit,
    grid_of,
    round_to_nearest,
    search_ranges,
    to_codes,
)
from anomia.compress.methods.sparsegpt import DAMPING, inverse_factor
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Quantize

BLOCK = 128
_PANEL = 32
UNREACHED = "no calibration token reached it: rounded to nearest"


class Solved(NamedTuple):
    """Result of `gptq`. quantized: one per matrix, in order. damping: the final one. dead: zero inputs, [in] bool."""

    quantized: list[Quantized]
    damping: float
    dead: torch.Tensor


def gptq_block(work: BlockWork) -> list[MatrixReport]:
    """Quantize every matrix, [out, in], of a block with `gptq`, in place."""
    assert isinstance(work.step, Quantize)
    reports = []
    for group in work.groups:
        weights = [matrix.weight for matrix in group.matrices]
        assert group.statistic is not None
        assert group.statistic.hessian is not None
        names = f"{work.where}.{', '.join(matrix.name for matrix in group.matrices)}"
        grid = grid_of(work.step, weights[0].dtype)
        solved = gptq(weights, group.statistic.hessian, grid, order=work.step.option("order"), where=names)
        note = f"damping raised to {solved.damping:g}" if solved.damping > DAMPING else ""
        dead = int(solved.dead.sum())
        if dead:
            dead_note = (
                f"{dead} of its inputs are zero for all calibration tokens, or too small to be squared, and "
                "their weights were set to zero"
            )
            note = "; ".join(part for part in (note, dead_note) if part)
        for matrix, quantized in zip(group.matrices, solved.quantized, strict=True):
            report = put(matrix, quantized, work)
            reports.append(report._replace(dead_columns=dead, damping=solved.damping, note=note))
    return reports


def round_unreached(matrix: WeightMatrix, work: BlockWork) -> MatrixReport:
    """Round a matrix that no calibration token reached to the nearest codes, in place."""
    assert isinstance(work.step, Quantize)
    quantized = round_to_nearest(matrix.weight, grid_of(work.step, matrix.weight.dtype))
    return put(matrix, quantized, work)._replace(note=UNREACHED)


def put(matrix: WeightMatrix, quantized: Quantized, work: BlockWork) -> MatrixReport:
    """Set a matrix to its dequantized values; keep the codes for a packed checkpoint, where `Conv1D` has no place."""
    matrix.weight.copy_(quantized.values())
    if matrix.name.endswith("]") or isinstance(layer_of(work.block, matrix.name), nn.Linear):
        work.packed[matrix.name] = quantized
    return report_matrix(matrix)


@torch.no_grad()
def gptq(
    weights: Sequence[torch.Tensor],
    hessian: torch.Tensor,
    grid: Grid,
    *,
    order: str = "act",
    clip: bool = False,
    where: str = "a matrix",
) -> Solved:
    """Quantize matrices that share their input; the remaining columns compensate the error of each column.

    Columns of inputs that are always zero are set to zero. The zeros of a pruned matrix stay, so that it keeps its
    pattern. A matrix counts as pruned if a tenth or more of its weights are zero, and more than chance makes. Weights
    from a GGUF file have so few values that one in 15 is zero, in some matrices one in 9.

    Args:
        weights: [out, in] each.
        hessian: X·Xᵀ, [in, in] float32; its scale doesn't matter.
        grid: bits, groups and the type of the scales.
        order: `act` (act-order) starts with the columns of the strongest inputs; `plain` works from left to right.
            Either way, groups are consecutive inputs, so no permutation is needed at inference, and their scales are
            those of the dense weights (`static_groups` of the authors' code, `actorder="static"` and None of
            llm-compressor). Without `static_groups` the authors' code takes a group's range when it reaches the group.
            The weights have by then taken over the errors of earlier columns, which widens the range.
        clip: choose each group's range by its error (`search_ranges`).

    Source: Frantar et al. (2023), Algorithm 1; act-order, static groups, damping and dead columns as in their code.
    Raises `CompressionError` if no damping makes the Hessian invertible.
    """
    rows = [len(weight) for weight in weights]
    dead = hessian.diagonal() == 0
    # Store columns as rows in memory: every step below reads and writes whole columns.
    work = torch.cat([weight.float().T for weight in weights], dim=1)  # [in, R]
    gone = torch.cat([_pruned(weight.T, dead) for weight in weights], dim=1)  # [in, R]
    work[dead] = 0
    columns, width = len(work), grid.width(len(work))
    if clip:
        low, high = (part.T for part in search_ranges(work.T, grid, hessian))
    else:
        grouped = work.reshape(-1, width, work.shape[1])  # [groups, g, R]
        low, high = grouped.amin(dim=1), grouped.amax(dim=1)
    scales, zeros = fit(low, high, grid)  # [groups, R]
    taken = torch.arange(columns, device=work.device)
    if order == "act":
        taken = hessian.diagonal().argsort(descending=True, stable=True)
        hessian, work, gone = hessian[taken][:, taken], work[taken], gone[taken]
    factor, damping = inverse_factor(hessian, where=where)  # [in, in], upper
    groups = (taken // width).tolist()
    codes = torch.empty(work.shape, dtype=torch.uint8, device=work.device)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, local = work[start:end], factor[start:end, start:end]  # [b, R], [b, b]
        errors = torch.empty_like(block)
        for first in range(start, end, _PANEL):
            last = min(first + _PANEL, end)
            inside = slice(first - start, last - start)
            _round_panel(
                work[first:last],
                local[inside, inside],
                gone[first:last],
                [(scales[group], zeros[group]) for group in groups[first:last]],
                grid,
                codes[first:last],
                errors[inside],
            )
            block[last - start :].addmm_(local[inside, last - start :].T, errors[inside], alpha=-1)
        work[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    codes = codes[taken.argsort()]
    parts = zip(*(torch.split(tensor, rows, dim=1) for tensor in (codes, scales, zeros)), strict=True)
    quantized = [
        Quantized(
            mine.T.contiguous(),
            scale.T.contiguous().to(grid.dtype),
            zero.T.contiguous().to(torch.uint8),
            grid,
        )
        for mine, scale, zero in parts
    ]
    return Solved(quantized, damping, dead)


def _pruned(columns: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
    """Return which weights must stay zero, [in, out] bool. columns: [in, out]; dead: [in] bool."""
    zeros = columns == 0
    share = float(zeros[~dead].float().mean()) if not bool(dead.all()) else 0.0
    if share == 0:
        return torch.zeros_like(zeros)
    # How often neighbours are equal tells how coarse the values are. Where zero is the most frequent value of a normal
    # distribution, its share is √2 times that.
    kept = ~(zeros[1:] | zeros[:-1])
    equal = (columns[1:] == columns[:-1])[kept]
    chance = float(equal.float().mean()) if equal.numel() else 0.0
    return zeros if share >= 2 * chance else torch.zeros_like(zeros)


def _round_panel(
    panel: torch.Tensor,
    factor: torch.Tensor,
    gone: torch.Tensor,
    grids: Sequence[tuple[torch.Tensor, torch.Tensor]],
    grid: Grid,
    codes: torch.Tensor,
    errors: torch.Tensor,
) -> None:
    """Quantize columns one by one: compute the codes and the errors, and update the later columns, in place.

    panel: columns, [p, R] float32. factor: [p, p], upper. gone: weights that stay zero, [p, R]. grids: scales and zero
    points of each column, [R] each. codes, errors: outputs, [p, R].
    """
    diagonal = factor.diagonal().tolist()
    for column, (scales, zeros) in enumerate(grids):
        weights = panel[column]
        code = torch.where(gone[column], zeros, to_codes(weights, scales, zeros, grid.levels))
        codes[column] = code
        # The value that the model will use: the product rounded to the stored type.
        values = ((code - zeros) * scales).to(grid.dtype).float()
        error = errors[column]
        torch.sub(weights, values, out=error).div_(diagonal[column])
        panel[column + 1 :].addr_(factor[column, column + 1 :], error, alpha=-1)


METHOD = Method(StatisticNeeds(hessian=True), gptq_block, round_unreached)
