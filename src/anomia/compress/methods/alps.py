"""ALPS: find the mask by ADMM on the layer's error, and the weights by conjugate gradients (Meng et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from anomia.compress.exponents import far_exponent, shifted
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.masks import cut
from anomia.compress.methods.sparsegpt import DAMPING
from anomia.compress.methods.update import Updated, masked_least_squares
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Target
from anomia.errors import RefusedError

# The settings of the authors' code: initial penalty, maximum steps, steps between checks, steps before the looser stop.
PENALTY = 0.1
STEPS = 300
_EVERY = 3
_LOOSER_AFTER = 30
# (change of the mask since the last check as a fraction of the kept weights, growth of the penalty above it).
_GROWTH = ((0.1, 1.3), (0.005, 1.2))
_SLOW_GROWTH = 1.1
_SETTLED = 0.0003
_SHRINK = 5.0
_SMALLEST, _LARGEST = 1e-6, 1e6


def alps_block(work: BlockWork) -> list[MatrixReport]:
    """Prune every matrix, [out, in], of a block that calibration tokens reached, in place."""
    reports: list[MatrixReport] = []
    for group in work.groups:
        assert group.statistic is not None
        assert group.statistic.hessian is not None
        assert work.target is not None
        names = f"{work.where}.{', '.join(matrix.name for matrix in group.matrices)}"
        weights = [matrix.weight for matrix in group.matrices]
        found = alps(weights, group.statistic.hessian, work.target, where=names)
        dead = int((group.statistic.sum_squares == 0).sum())
        for matrix, weight, settled in zip(group.matrices, found.updated.weights, found.settled, strict=True):
            matrix.weight.copy_(weight)
            note = "" if settled else f"ALPS's mask was still changing after {STEPS} steps"
            reports.append(report_matrix(matrix)._replace(dead_columns=dead, note=note))
    return reports


class Alps(NamedTuple):
    """The result of `alps`. masks: [out, in] bool each, True where pruned. updated: the weights and their errors.

    steps: ADMM steps of each matrix. settled: whether each mask stopped changing before the last step.
    """

    masks: list[torch.Tensor]
    updated: Updated
    steps: list[int]
    settled: list[bool]


@torch.no_grad()
def alps(
    weights: Sequence[torch.Tensor], hessian: torch.Tensor, target: Target, *, where: str = "a matrix"
) -> Alps:
    """Prune matrices that share their input: ADMM chooses the mask, conjugate gradients the kept weights.

    Minimizes ‖(Ŵ−W)X‖² with `int(out × in × sparsity)` zeros in each whole matrix, or with a pattern. ADMM's penalty
    grows faster while more of the mask changes. Inputs are scaled to unit norm, and the Hessian is damped by 0.01 of
    its mean diagonal.

    Args:
        weights: [out, in] each.
        hessian: X·Xᵀ, [in, in] float32; its scale doesn't matter.

    Source: Meng et al. (2024), Algorithm 1 for ADMM, Algorithm 2 for the weights; the schedule of the penalty is from
    their code.
    Raises `CompressionError` for NaN or infinite values.
    """
    if not bool(torch.isfinite(hessian).all()) or not all(bool(torch.isfinite(w).all()) for w in weights):
        raise RefusedError(
            f"{where}: weights or calibration activations are NaN or infinite, so no weight can be chosen; "
            "load the model in a wider type (--dtype bfloat16 or float32)"
        )
    problem = _problem(hessian)
    exponents = [far_exponent([weight]) for weight in weights]
    found = [
        _find(shifted(weight.float(), -exponent) * problem.norms, problem, target)
        for weight, exponent in zip(weights, exponents, strict=True)
    ]
    masks = [mask for mask, _, _, _ in found]
    starts = [
        shifted((solved / problem.norms).masked_fill_(mask, 0), exponent)
        for (mask, solved, _, _), exponent in zip(found, exponents, strict=True)
    ]
    updated = masked_least_squares(weights, masks, hessian, start=starts, where=where)
    return Alps(masks, updated, [steps for _, _, steps, _ in found], [settled for _, _, _, settled in found])


class _Problem(NamedTuple):
    """The damped Hessian for inputs scaled to unit norm, [in, in], and the norms, [in]."""

    gram: torch.Tensor
    norms: torch.Tensor

    def inverse(self, penalty: float) -> torch.Tensor:
        """Return (H + ρI)⁻¹, [in, in] float32. A dozen factorizations cost less than one eigendecomposition."""
        penalized = self.gram.double()
        penalized.diagonal().add_(penalty)
        return torch.cholesky_inverse(torch.linalg.cholesky(penalized)).float()


def _problem(hessian: torch.Tensor) -> _Problem:
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    damped = hessian.clone()
    # If all inputs are zero, all inputs count the same, and the largest weights stay.
    damped.diagonal().add_(DAMPING * mean if mean > 0 else 1.0)
    norms = damped.diagonal().sqrt()
    return _Problem(damped / norms / norms[:, None], norms)


def _find(
    weight: torch.Tensor, problem: _Problem, target: Target
) -> tuple[torch.Tensor, torch.Tensor, int, bool]:
    """Run ADMM on one matrix.

    weight: for the scaled inputs, [out, in] float32. Returns the mask, True where pruned, and the weights, [out, in]
    each; the number of steps; and whether the mask stopped changing.
    """
    aim = weight @ problem.gram
    penalty = PENALTY
    inverse = problem.inverse(penalty)
    before = _smallest(weight, target)
    first = weight.masked_fill(before, 0)
    solved, sparse, dual = weight, first, torch.zeros_like(weight)
    kept = max(1, weight.numel() - int(before.sum()))
    growing = settled = False
    step = 0
    for step in range(1, STEPS + 1):
        solved = (aim - dual + penalty * sparse) @ inverse
        moved = solved + dual / penalty
        mask = _smallest(moved, target)
        sparse = moved.masked_fill(mask, 0)
        dual = dual + penalty * (solved - sparse)
        if step % _EVERY:
            continue
        changed = int((mask ^ before).sum())
        before = mask
        if changed == 0 and growing:
            settled = True
            break
        if changed == 0 or (changed / kept <= _GROWTH[-1][0] and not growing):
            # The mask doesn't change yet: the initial penalty was too large.
            penalty /= _SHRINK
            if changed:
                sparse, dual = first, torch.zeros_like(weight)
            if penalty < _SMALLEST:
                # The mask doesn't change even with the smallest penalty: the first one was right.
                settled = True
                break
        else:
            growing = True
            penalty *= next((factor for part, factor in _GROWTH if changed / kept > part), _SLOW_GROWTH)
            penalty = min(penalty, _LARGEST)
        inverse = problem.inverse(penalty)
        if step > _LOOSER_AFTER and changed / kept < _SETTLED:
            settled = True
            break
    return _smallest(solved, target), solved, step, settled


def _smallest(values: torch.Tensor, target: Target) -> torch.Tensor:
    """Mask the `int(out × in × sparsity)` smallest of a matrix, or those of every M inputs. Returns [out, in] bool."""
    return cut(values.abs(), target, whole=True).mask


METHOD = Method(StatisticNeeds(hessian=True), alps_block, prune_unreached)
