"""Weight updates for a given mask: masked least squares, by conjugate gradients or ADMM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from anomia.compress.methods.base import BlockWork, Updater
from anomia.compress.methods.sparsegpt import DAMPING
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import Needs
from anomia.compress.steps import Update
from anomia.errors import CompressionError, RefusedError

SOLVERS = ("cg", "admm")
ITERATIONS = 50
TOLERANCE = 5e-3
# The settings of Boža's code: damping and penalty on a Hessian whose diagonal is one.
ADMM_DAMPING = 0.1
ADMM_PENALTY = 1.0
ADMM_ITERATIONS = 20
# Rows that are solved together: each strip stops when it has converged, and its work stays small.
_ROWS = 512


def update_block(work: BlockWork, dense: Mapping[str, torch.Tensor], update: Update) -> list[MatrixReport]:
    """Least-squares weights for the zeros that every matrix of a block has.

    dense: the matrices before pruning by their names in the block, [out, in] each.
    """
    reports: list[MatrixReport] = []
    for group in work.groups:
        assert group.statistic is not None
        assert group.statistic.hessian is not None
        weights = [matrix.weight for matrix in group.matrices]
        solved = masked_least_squares(
            # Back in the type that they were stored in, for which the result is rounded.
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
    """Matrices after the update, and how far it came.

    weights: as they came, [out, in] each in the type of its dense matrix. error_before, error_after: of each matrix,
    ‖(Ŵ−W)X‖²/‖WX‖² with the start's and the updated weights. iterations: the most that any strip of rows took.
    residual: of each matrix, the preconditioned gradient's norm over that of the start, 0 for none left.
    """

    weights: list[torch.Tensor]
    error_before: list[float]
    error_after: list[float]
    iterations: int
    residual: list[float]
    solver: str

    @property
    def converged(self) -> bool:
        """Whether conjugate gradients came down to the tolerance; ADMM has a fixed number of steps and no such test."""
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
    """The weights under each mask that come closest to what the dense matrix puts out: min ‖(Ŵ−W)X‖².

    The Hessian is damped as SparseGPT damps it, by 0.01 of its mean diagonal, which ties the kept weights to the dense
    ones where the calibration text says nothing. No row comes back with a larger layer error than it has in `start`,
    after it is rounded to its type: such a row stays as it was.

    Args:
        dense: matrices that share their input, [out, in] each.
        masks: [out, in] bool each, True where the weight is zero.
        hessian: X·Xᵀ, [in, in] float32; its scale doesn't matter.
        start: weights to begin with, zero where masked, such as SparseGPT's; the dense ones without the masked if None.
        solver: `cg`, conjugate gradients preconditioned by the diagonal, or `admm` (Boža 2024, Algorithm 1).
        iterations: at most so many; None for the solver's own number.

    Source: Boža (2024), Section 3, for the problem and ADMM; Meng et al. (2024), Section 3.3, for conjugate gradients on
    all rows together.
    Raises `CompressionError` for values that are NaN or infinite, and for a start that isn't zero under its mask.
    """
    if solver not in SOLVERS:
        raise CompressionError(f"{where}: unknown solver {solver!r}; there are {' and '.join(SOLVERS)}")
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
            raise CompressionError(f"{where}: the weights to begin with aren't zero where the mask is")
        new = torch.empty_like(weight)
        before = after = norm = taken = left = 0.0
        for rows in torch.split(torch.arange(len(weight), device=weight.device), _ROWS):
            full, keep, first = weight[rows].float(), ~mask[rows], begin[rows].to(weight.dtype)
            solved, steps, residual = solve(full, keep, begin[rows].float(), limit)
            rounded = solved.masked_fill_(~keep, 0).to(weight.dtype)
            old, now = (row_errors(rows_.float() - full, hessian) for rows_ in (first, rounded))
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
    """‖(Ŵ−W)X‖² of each row, [R] float32, never below zero. difference: Ŵ−W, [R, in] float32."""
    errors: torch.Tensor = torch.linalg.vecdot(difference @ hessian, difference)
    return errors.clamp_min_(0)


def layer_error(weight: torch.Tensor, dense: torch.Tensor, hessian: torch.Tensor) -> float:
    """‖(Ŵ−W)X‖²/‖WX‖² of a whole matrix; 0 where the dense one puts out nothing. weight, dense: [out, in]."""
    error = norm = 0.0
    for start in range(0, len(weight), _ROWS):
        full = dense[start : start + _ROWS].float()
        lost = row_errors(weight[start : start + _ROWS].float() - full, hessian)
        error += float(lost.sum(dtype=torch.float64))
        norm += float(row_errors(full, hessian).sum(dtype=torch.float64))
    return error / norm if norm else 0.0


def damped_diagonal(hessian: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The diagonal with its damping, [in], and the damping: 0.01 of the mean over the inputs that were excited."""
    diagonal = hessian.diagonal()
    live = diagonal[diagonal > 0]
    damping = DAMPING * (float(live.mean()) if len(live) else 1.0)
    return diagonal + damping, damping


_Solver = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, int, float]]


def _conjugate_gradients(hessian: torch.Tensor) -> _Solver:
    """Preconditioned conjugate gradients on many rows at once, each with a mask of its own. hessian: [in, in] float32."""
    diagonal, damping = damped_diagonal(hessian)

    def solve(
        full: torch.Tensor, keep: torch.Tensor, first: torch.Tensor, limit: int
    ) -> tuple[torch.Tensor, int, float]:
        """Weights [R, in], the steps, and the norm of what is left of the gradient, as a share of the first one's.

        full, first: dense weights and those to begin with, keep: False where a weight is zero; [R, in] each.
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
            # A row that is solved, or whose curvature is lost in rounding, stands still.
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
    """ADMM with the mask as its constraint, on inputs of norm one; takes and returns what conjugate gradients do.

    Source: Boža (2024), Algorithm 1, and the code.
    """
    diagonal = hessian.diagonal()
    norms = torch.where(diagonal > 0, diagonal.sqrt(), 1.0)
    scaled = hessian / norms / norms[:, None]
    # An input that no token excited has nothing but the damping, which keeps its weights where they are.
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


UPDATER = Updater(Needs(hessian=True), update_block)
