"""SparseGPT: pruning with second-order weight updates (Frantar and Alistarh 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from anomia.compress.exponents import far_exponent, shifted
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.masks import kth_lowest, lifted, lowest_mask
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Pattern, Target
from anomia.errors import RefusedError

BLOCK = 128
DAMPING = 0.01
_PANEL = 32


class Pruned(NamedTuple):
    """Result of `sparsegpt`. weights: [out, in] float32 each. damping: the final one. dead: zero inputs, [in] bool."""

    weights: list[torch.Tensor]
    damping: float
    dead: torch.Tensor


@torch.no_grad()
def sparsegpt(
    weights: Sequence[torch.Tensor], hessian: torch.Tensor, target: Target, *, where: str = "a matrix"
) -> Pruned:
    """Prune matrices that share their input; the kept weights compensate for the pruned ones.

    weights: [out, in] each. hessian: X·Xᵀ, [in, in] float32; its scale doesn't matter. In every block of 128 columns
    the lowest `int(out × 128 × sparsity)` of w²/[H⁻¹]² are pruned, with one threshold over all rows of a matrix; a
    pattern prunes the lowest of every M inputs when its first column is reached. Columns of inputs that are always zero
    are set to zero.

    Source: Frantar and Alistarh (2023), Algorithm 1 and Section 3.4; damping and dead columns as in their code.
    Raises `CompressionError` if no damping makes the Hessian invertible.
    """
    rows = [len(weight) for weight in weights]
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    columns = len(diagonal)
    # Store columns as rows in memory: every step below reads and writes whole columns.
    exponents = [far_exponent([weight]) for weight in weights]
    pairs = zip(weights, exponents, strict=True)
    work = torch.cat([shifted(weight.float(), -exponent).T for weight, exponent in pairs], dim=1)  # [in, R]
    work[dead] = 0
    factor, damping = inverse_factor(hessian, where=where)  # [in, in], upper
    pattern = target if isinstance(target, Pattern) else None
    width, panel = BLOCK, _PANEL
    if pattern is not None:
        panel = pattern.group * max(1, _PANEL // pattern.group)
        width = panel * max(1, BLOCK // panel)
    for start in range(0, columns, width):
        end = min(start + width, columns)
        block = work[start:end]  # [b, R]
        local = factor[start:end, start:end]  # [b, b]
        mask = torch.zeros_like(block, dtype=torch.bool)
        if not isinstance(target, Pattern):
            mask = _block_mask(block, local.diagonal(), rows, target)
        errors = torch.empty_like(block)
        for first in range(0, end - start, panel):
            last = min(first + panel, end - start)
            _prune_panel(
                block[first:last],
                local[first:last, first:last],
                mask[first:last],
                errors[first:last],
                pattern,
            )
            block[last:].addmm_(local[first:last, last:].T, errors[first:last], alpha=-1)
        work[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    parts = zip(torch.split(work, rows, dim=1), exponents, strict=True)
    return Pruned([shifted(part.T, exponent) for part, exponent in parts], damping, dead)


def _block_mask(
    block: torch.Tensor, diagonal: torch.Tensor, rows: Sequence[int], sparsity: float
) -> torch.Tensor:
    """Mask the lowest scores, with one threshold over all rows of each matrix. block: [b, R]; returns [b, R] bool."""
    masks = []
    for weights in torch.split(block, list(rows), dim=1):
        part = (lifted(weights.abs()) / diagonal[:, None]).square_()
        count = int(part.numel() * sparsity)
        flat = part.reshape(1, -1)
        masks.append(part <= kth_lowest(flat, count) if count else torch.zeros_like(part, dtype=torch.bool))
    return torch.cat(masks, dim=1)


def _prune_panel(
    panel: torch.Tensor,
    factor: torch.Tensor,
    mask: torch.Tensor,
    errors: torch.Tensor,
    pattern: Pattern | None,
) -> None:
    """Prune columns one by one and update the later columns, in place.

    panel: columns, [p, R] float32. factor: [p, p], upper. mask: [p, R] bool, filled in here for a pattern. errors:
    output, [p, R].
    """
    diagonal = factor.diagonal()[:, None]
    weights, gone = panel.unbind(), errors.unbind()
    if pattern is None:
        torch.div(mask, diagonal, out=errors)
    for column, error in enumerate(gone):
        if pattern is not None and column % pattern.group == 0:
            group = slice(column, column + pattern.group)
            scores = (lifted(panel[group].abs(), dim=0) / diagonal[group]).square()  # [M, R]
            mask[group] = lowest_mask(scores.T.contiguous(), pattern.group - pattern.keep).T
            torch.div(mask[group], diagonal[group], out=errors[group])
        error.mul_(weights[column])
        panel[column + 1 :].addr_(factor[column, column + 1 :], error, alpha=-1)
    panel.masked_fill_(mask, 0)


def inverse_factor(hessian: torch.Tensor, *, where: str) -> tuple[torch.Tensor, float]:
    """Return the upper Cholesky factor U of the damped inverse, H⁻¹ = Uᵀ·U, and the damping. hessian H, U: [in, in].

    With the order of the inputs reversed, H = L·Lᵀ, and U is L⁻¹ reversed again. This takes one factorization and one
    triangular inverse, half the work of inverting H and factorizing the result.
    Damping is relative to the mean diagonal; a failed factorization raises it tenfold.
    Raises `CompressionError` if H has NaN or infinite values, or can't be inverted.
    """
    diagonal = hessian.diagonal()
    live = diagonal[diagonal > 0]
    if not bool(torch.isfinite(diagonal).all()):
        raise RefusedError(f"{where}: the calibration activations are not finite; try another dtype")
    mean = float(live.mean()) if len(live) else 1.0
    damping = DAMPING
    while damping <= 1.0:
        damped = hessian.flip(0, 1)
        reversed_diagonal = diagonal.flip(0)
        damped.diagonal().copy_(torch.where(reversed_diagonal == 0, mean, reversed_diagonal) + damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            identity = torch.eye(len(lower), device=lower.device)
            inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
            if bool(torch.isfinite(inverse).all()):
                return inverse.flip(0, 1), damping
        damping *= 10
    raise RefusedError(f"{where}: its Hessian can't be inverted, not even with damping 1")


def _prune_block(work: BlockWork) -> list[MatrixReport]:
    """Prune every matrix, [out, in], of a block that calibration tokens reached, in place."""
    assert work.target is not None
    reports = []
    for group in work.groups:
        assert group.statistic is not None
        assert group.statistic.hessian is not None
        names = f"{work.where}.{', '.join(matrix.name for matrix in group.matrices)}"
        weights = [matrix.weight for matrix in group.matrices]
        solved = sparsegpt(weights, group.statistic.hessian, work.target, where=names)
        note = f"damping raised to {solved.damping:g}" if solved.damping > DAMPING else ""
        dead = int(solved.dead.sum())
        for matrix, weight in zip(group.matrices, solved.weights, strict=True):
            matrix.weight.copy_(weight)
            report = report_matrix(matrix)
            reports.append(report._replace(dead_columns=dead, damping=solved.damping, note=note))
    return reports


METHOD = Method(StatisticNeeds(hessian=True), _prune_block, prune_unreached)
