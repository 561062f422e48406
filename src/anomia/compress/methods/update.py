"""Weight updates for a given mask: masked least squares, by conjugate gradients or ADMM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from anomia.compress.exponents import far_exponent, shifted
from anomia.compress.methods.base import BlockWork, Updater
from anomia.compress.methods.sparsegpt import DAMPING
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Update
from anomia.errors import RefusedError

SOLVERS = ("cg", "admm")
ITERATIONS = 50
TOLERANCE = 5e-3
# The settings of Boža's code: damping and penalty for a Hessian with a unit diagonal.
ADMM_DAMPING = 0.1
ADMM_PENALTY = 1.0
ADMM_ITERATIONS = 20
# Rows solved together: each strip stops when it has converged, and its buffers stay small.
_ROWS = 512


def update_block(work: BlockWork, dense: Mapping[str, torch.Tensor], update: Update) -> list[MatrixReport]:
    """Update every matrix of a block to the least-squares weights for its zeros, in place.

    dense: the matrices before pruning by their names in the block, [out, in] each.
    """
    reports: list[MatrixReport] = []
    for group in work.groups:
        assert group.statistic is not None
        assert group.statistic.hessian is not None
        weights = [matrix.weight for matrix in group.matrices]
        solved = masked_least_squares(
            # Cast back to the stored type, to which the result is rounded.
            [dense[matrix.name].to(matrix.weight.dtype) for matrix in group.matrices],
            [weight == 0 for weight in weights],
            group.statistic.hessian,
            start=weights,
            solver=update.option("solver"),
            where=f"{work.where}.{', '.join(matrix.name for matrix in group.matrices)}",
        )
        unfinished = solved.solver == "cg" and not solved.converged
        note = (
            f"conjugate gradients stopped after {ITERATIONS} steps, short of their tolerance"
            if unfinished
            else ""
        )
        for matrix, weight in zip(group.matrices, solved.weights, strict=True):
            matrix.weight.copy_(weight)
            reports.append(report_matrix(matrix)._replace(note=note))
    return reports


class Updated(NamedTuple):
    """The updated matrices, and the convergence of the solver.

    weights: [out, in] each, in the order and type of the dense matrices. error_before, error_after: for each matrix,
    ‖(Ŵ−W)X‖²/‖WX‖² with the start weights and the updated weights. iterations: the maximum over all strips of rows.
    residual: for each matrix, the norm of the preconditioned gradient relative to the start's (maximum over strips).
    """

    weights: list[torch.Tensor]
    error_before: list[float]
    error_after: list[float]
    iterations: int
    residual: list[float]
    solver: str

    @property
    def converged(self) -> bool:
        """Whether conjugate gradients reached the tolerance; False for ADMM, which has a fixed number of steps."""
        return self.solver == "cg" and max(self.residual, default=0.0) <= TOLERANCE


@torch.no_grad()
def masked_least_squares(
    dense: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    hessian: torch.Tensor,
    *,
    start: Sequence[torch.Tensor] | None = None,
    solver: str = "cg",
    iterations: int | None = None,
    where: str = "a matrix",
) -> Updated:
    """Find the weights under each mask whose outputs are closest to the dense matrix's: min ‖(Ŵ−W)X‖².

    The Hessian is damped as in SparseGPT, by 0.01 of its mean diagonal, which keeps weights near the dense ones in
    directions without calibration data. If a row's error, after rounding to its type, is larger than in `start`, the
    row of `start` is returned.

    Args:
        dense: matrices that share their input, [out, in] each.
        masks: [out, in] bool each, True where the weight is zero.
        hessian: X·Xᵀ, [in, in] float32; its scale doesn't matter.
        start: initial weights, [out, in] each, zero where masked, such as SparseGPT's; None for the masked dense ones.
        solver: `cg`, conjugate gradients preconditioned by the diagonal, or `admm` (Boža 2024, Algorithm 1).
        iterations: the maximum; None for the solver's default.

    Source: Boža (2024), Section 3, for the problem and ADMM; Meng et al. (2024), Section 3.3, for conjugate gradients
    on all rows together.
    Raises `CompressionError` for NaN or infinite values, and for a start that isn't zero where masked.
    """
    if solver not in SOLVERS:
        raise RefusedError(f"{where}: unknown solver {solver!r}; there are {' and '.join(SOLVERS)}")
    finite = bool(torch.isfinite(hessian).all()) and all(bool(torch.isfinite(w).all()) for w in dense)
    if not finite:
        raise RefusedError(
            f"{where}: weights or calibration activations are NaN or infinite, so there is no closest update; "
            "load the model in a wider type (--dtype bfloat16 or float32)"
        )
    starts = start if start is not None else [w.masked_fill(m, 0) for w, m in zip(dense, masks, strict=True)]
    solve = _conjugate_gradients(hessian) if solver == "cg" else _admm(hessian)
    limit = iterations or (ITERATIONS if solver == "cg" else ADMM_ITERATIONS)
    done = Updated([], [], [], 0, [], solver)
    for weight, mask, begin in zip(dense, masks, starts, strict=True):
        if bool(begin[mask].any()):
            raise RefusedError(f"{where}: the weights to begin with aren't zero where the mask is")
        new = torch.empty_like(weight)
        exponent = far_exponent([weight])
        before = after = norm = taken = left = 0.0
        for rows in torch.split(torch.arange(len(weight), device=weight.device), _ROWS):
            keep, first = ~mask[rows], begin[rows].to(weight.dtype)
            full, whole = (shifted(part[rows].float(), -exponent) for part in (weight, begin))
            solved, steps, residual = solve(full, keep, whole, limit)
            rounded = shifted(solved.masked_fill_(~keep, 0), exponent).to(weight.dtype)
            old, now = (
                row_errors(shifted(part.float(), -exponent) - full, hessian) for part in (first, rounded)
            )
            # `>=` is False for a row that is NaN.
            better = old >= now
            new[rows] = torch.where(better[:, None], rounded, first)
            before += float(old.sum())
            after += float(torch.where(better, now, old).sum())
            norm += float(row_errors(full, hessian).sum())
            taken, left = max(taken, steps), max(left, residual)
        scale = max(norm, torch.finfo(torch.float32).tiny)
        done.weights.append(new)
        done.error_before.append(before / scale)
        done.error_after.append(after / scale)
        done.residual.append(left)
        done = done._replace(iterations=max(done.iterations, int(taken)))
    return done


def row_errors(difference: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Return ‖(Ŵ−W)X‖² of each row, [R] float32, clamped at zero. difference: Ŵ−W, [R, in] float32."""
    errors: torch.Tensor = torch.linalg.vecdot(difference @ hessian, difference)
    return errors.clamp_min_(0)


def layer_error(weight: torch.Tensor, dense: torch.Tensor, hessian: torch.Tensor) -> float:
    """Return ‖(Ŵ−W)X‖²/‖WX‖² of a matrix; 0 if WX is zero. weight, dense: [out, in]; hessian: [in, in]."""
    error = norm = 0.0
    exponent = -far_exponent([dense])
    for start in range(0, len(weight), _ROWS):
        full = shifted(dense[start : start + _ROWS].float(), exponent)
        lost = row_errors(shifted(weight[start : start + _ROWS].float(), exponent) - full, hessian)
        error += float(lost.sum(dtype=torch.float64))
        norm += float(row_errors(full, hessian).sum(dtype=torch.float64))
    return error / norm if norm else 0.0


def damped_diagonal(hessian: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the damped diagonal, [in], and the damping: 0.01 of the mean over the inputs that aren't always zero."""
    diagonal = hessian.diagonal()
    live = diagonal[diagonal > 0]
    damping = DAMPING * (float(live.mean()) if len(live) else 1.0)
    return diagonal + damping, damping


_Solver = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, int, float]]


def _conjugate_gradients(hessian: torch.Tensor) -> _Solver:
    """Make a solver by preconditioned conjugate gradients for many rows, each with its own mask. hessian: [in, in]."""
    diagonal, damping = damped_diagonal(hessian)

    def solve(
        full: torch.Tensor, keep: torch.Tensor, first: torch.Tensor, limit: int
    ) -> tuple[torch.Tensor, int, float]:
        """Return weights [R, in], the number of steps, and the norm of the gradient relative to the initial one.

        full: dense weights, keep: False where a weight is zero, first: initial weights; [R, in] each.
        """
        weight = first.clone()  # [R, in]
        off = weight - full
        gradient = (off @ hessian).add_(off, alpha=damping).neg_().mul_(keep)
        scaled = gradient / diagonal
        direction = scaled.clone()
        power = torch.linalg.vecdot(gradient, scaled)  # [R]
        begin = power.clone()
        steps = 0
        while steps < limit:
            steps += 1
            pushed = (direction @ hessian).add_(direction, alpha=damping).mul_(keep)
            curvature = torch.linalg.vecdot(direction, pushed)
            # A row that is solved, or whose curvature is lost in rounding, stays unchanged.
            length = torch.where((curvature > 0) & (power > 0), power / curvature, 0)[:, None]
            weight.addcmul_(direction, length)
            gradient.addcmul_(pushed, length, value=-1)
            torch.div(gradient, diagonal, out=scaled)
            following = torch.linalg.vecdot(gradient, scaled)
            if float(following.sum()) <= TOLERANCE**2 * float(begin.sum()):
                power = following
                break
            direction.mul_(torch.where(power > 0, following / power, 0)[:, None]).add_(scaled)
            power = following
        total = float(begin.sum())
        return weight, steps, (float(power.sum()) / total) ** 0.5 if total > 0 else 0.0

    return solve


def _admm(hessian: torch.Tensor) -> _Solver:
    """Make a solver by ADMM with the mask as constraint, on inputs scaled to unit norm. hessian: [in, in].

    The solver takes and returns the same as that of `_conjugate_gradients`.
    Source: Boža (2024), Algorithm 1, and its code.
    """
    diagonal = hessian.diagonal()
    norms = torch.where(diagonal > 0, diagonal.sqrt(), 1.0)
    scaled = hessian / norms / norms[:, None]
    # An input that is always zero only has the damping, which keeps its weights unchanged.
    scaled.diagonal().add_(ADMM_DAMPING)
    penalized = scaled.clone()
    penalized.diagonal().add_(ADMM_PENALTY)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(penalized))

    def solve(
        full: torch.Tensor, keep: torch.Tensor, first: torch.Tensor, limit: int
    ) -> tuple[torch.Tensor, int, float]:
        weight = full * norms
        aim = weight @ scaled
        dual = torch.zeros_like(weight)
        for _ in range(limit):
            kept = (weight + dual).mul_(keep)
            dual += weight - kept
            weight = (aim + ADMM_PENALTY * (kept - dual)) @ inverse
        kept = (weight + dual).mul_(keep)
        start = first * norms - full * norms
        grads = [((off @ scaled) * keep).norm() for off in (kept - full * norms, start)]
        return kept / norms, limit, float(grads[0] / grads[1]) if float(grads[1]) > 0 else 0.0

    return solve


UPDATER = Updater(StatisticNeeds(hessian=True), update_block)
