"""DSnoT: swap kept and pruned weights so that each output's mean comes closer to the dense one (Zhang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from anomia.compress.methods.base import BlockWork, Updater
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Pattern, Update
from anomia.errors import RefusedError

# The settings of the authors' code. The threshold is for inputs summed over a window of 2048 tokens.
CYCLES = 50
THRESHOLD = 0.1
_WINDOW = 2048


_NO_SWAPS = (
    "dsnot swapped nothing: no row's error is above its threshold, or none has a pair of weights to swap"
)
_DENSE_AGAIN = (
    "kept weights are the dense ones again: swaps are made on those, without the updates of the step before"
)


def dsnot_block(work: BlockWork, dense: Mapping[str, torch.Tensor], update: Update) -> list[MatrixReport]:
    """Swap weights in every matrix of a block, in place, using its dense weights and its current zeros.

    dense: the matrices before pruning by their names in the block, [out, in] each.
    """
    pattern = work.target if isinstance(work.target, Pattern) else None
    reports: list[MatrixReport] = []
    for group in work.groups:
        statistic = group.statistic
        assert statistic is not None
        assert statistic.sum is not None
        for matrix in group.matrices:
            full, mask = dense[matrix.name].to(matrix.weight.dtype), matrix.weight == 0
            swapped = dsnot(
                full,
                mask,
                statistic.sum,
                statistic.sum_squares,
                statistic.tokens,
                pattern=pattern,
                cycles=update.option("cycles") or CYCLES,
                where=f"{work.where}.{matrix.name}",
            )
            changed = not torch.equal(full.masked_fill(mask, 0), matrix.weight)
            matrix.weight.copy_(full.masked_fill(swapped.mask, 0))
            notes = [_DENSE_AGAIN] * changed + [_NO_SWAPS] * (not swapped.swaps and bool(mask.any()))
            reports.append(report_matrix(matrix)._replace(note="; ".join(notes)))
    return reports


class Swapped(NamedTuple):
    """The new mask. mask: [out, in] bool, True where pruned. swaps: number of swapped pairs in all rows."""

    mask: torch.Tensor
    swaps: int


@torch.no_grad()
def dsnot(
    weight: torch.Tensor,
    mask: torch.Tensor,
    sums: torch.Tensor,
    squares: torch.Tensor,
    tokens: int,
    *,
    pattern: Pattern | None = None,
    cycles: int = CYCLES,
    threshold: float = THRESHOLD,
    where: str = "a matrix",
) -> Swapped:
    """Swap weights in each row until the pruned weights' share of the mean output is small.

    A row's error is ε = Σ w·x̄ over its pruned weights, for windows of 2048 tokens. Each cycle restores the pruned
    weight with w·x̄ of ε's sign and the largest |w·x̄|/Var(x), and prunes the kept weight of the other sign with the
    lowest |w|·‖x‖. With a pattern, it prunes the kept weight with the lowest |w|·‖x‖ in the restored weight's group, as
    long as ε keeps its sign. A row ends after 50 cycles, at |ε| ≤ 0.1, or if it has no such pair. The numbers of zeros
    in a row and in a group stay the same.

    Args:
        weight: the dense matrix, [out, in].
        mask: [out, in] bool, True where the weight is pruned.
        sums, squares: Σx and Σx² over the calibration tokens, [in] float32.
        tokens: number of calibration tokens.
        pattern: the mask's pattern; swaps then stay within its groups.
        cycles: the most swaps per row.
        threshold: the |ε| at which a row ends.

    Source: Zhang et al. (2024), Section 3 and Algorithm 1, and the defaults of their code. Their code skips the MLP by
    default, and uses the mean over windows of the variance within each window.
    Raises `CompressionError` for NaN or infinite values, and for a mask that doesn't match the pattern.
    """
    dense = weight.float()
    finite = (torch.isfinite(dense).all(), torch.isfinite(sums).all(), torch.isfinite(squares).all())
    if not all(map(bool, finite)) or tokens < 1:
        raise RefusedError(
            f"{where}: weights or calibration activations are NaN or infinite, so no weight can be swapped; "
            "load the model in a wider type (--dtype bfloat16 or float32)"
        )
    if pattern is not None:
        kept = (~mask).reshape(-1, pattern.group).sum(dim=1)
        if int(kept.max()) > pattern.keep:
            raise RefusedError(f"{where}: the mask keeps more than {pattern} allows")
    mean = sums.double() / tokens
    # In float64: for inputs that hardly vary, this is the difference of two large, nearly equal numbers.
    power = squares.double() / tokens
    variance = (power - mean.square()).clamp_min(torch.finfo(torch.float32).eps * power).float()
    influence = dense * (mean.float() * _WINDOW)  # [out, in]
    certain = torch.where(variance > 0, influence / variance, 0)
    salience = dense.abs() * squares.sqrt()
    error = torch.where(mask, influence, 0).sum(dim=1)  # [out]
    if pattern is None:
        return _swap(mask, influence, certain, salience, error, cycles, threshold)
    return _swap_in_groups(mask, influence, certain, salience, error, cycles, threshold, pattern.group)


def _best(values: torch.Tensor, allowed: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of the `count` largest allowed values per row, [out, count], and how many are valid, [out]."""
    ranked = values.masked_fill(~allowed, -torch.inf).topk(count, dim=1)
    return ranked.indices, (ranked.values > -torch.inf).sum(dim=1)


def _swap(
    mask: torch.Tensor,
    influence: torch.Tensor,
    certain: torch.Tensor,
    salience: torch.Tensor,
    error: torch.Tensor,
    cycles: int,
    threshold: float,
) -> Swapped:
    """Swap within rows, without a pattern.

    mask: [out, in] bool, True where pruned. influence: w·x̄ over a window, certain: w·x̄/Var(x), salience: |w|·‖x‖;
    [out, in] float32 each. error: ε of each row, [out].
    """
    count = min(cycles, mask.shape[1])
    rows = torch.arange(len(mask), device=mask.device)
    positive, negative = influence > 0, influence < 0
    # Ranked candidates of each row: [0] for a negative error, [1] for a positive one.
    grow = [_best(-certain, mask & negative, count), _best(certain, mask & positive, count)]
    drop = [_best(-salience, ~mask & positive, count), _best(-salience, ~mask & negative, count)]
    grow_order, drop_order = (
        torch.stack([side[0] for side in both]) for both in (grow, drop)
    )  # [2, out, count]
    limits = torch.stack([torch.minimum(g[1], d[1]) for g, d in zip(grow, drop, strict=True)])  # [2, out]
    used = torch.zeros_like(limits)
    mask, swaps = mask.clone(), 0
    active = torch.ones_like(error, dtype=torch.bool)
    for _ in range(cycles):
        side = (error > 0).long()
        at = used[side, rows]
        active = active & (error.abs() > threshold) & (at < limits[side, rows])
        if not bool(active.any()):
            break
        at = at.clamp_max(count - 1)
        grown, dropped = grow_order[side, rows, at], drop_order[side, rows, at]
        used[side, rows] += 1
        some = rows[active]
        mask[some, grown[active]] = False
        mask[some, dropped[active]] = True
        change = influence[rows, dropped] - influence[rows, grown]
        error = error + torch.where(active, change, 0)
        swaps += len(some)
    return Swapped(mask, swaps)


def _swap_in_groups(
    mask: torch.Tensor,
    influence: torch.Tensor,
    certain: torch.Tensor,
    salience: torch.Tensor,
    error: torch.Tensor,
    cycles: int,
    threshold: float,
    group: int,
) -> Swapped:
    """Swap within groups of `group` adjacent weights, keeping their number of zeros.

    mask, influence, certain, salience: [out, in]. error: [out]. All arguments are as in `_swap`.
    """
    count = min(cycles, mask.shape[1])
    rows = torch.arange(len(mask), device=mask.device)
    inside = torch.arange(group, device=mask.device)
    grow = [_best(-certain, mask & (influence < 0), count), _best(certain, mask & (influence > 0), count)]
    order = torch.stack([side[0] for side in grow])  # [2, out, count]
    limits = torch.stack([side[1] for side in grow])
    used = torch.zeros_like(limits)
    # A weight pruned by the mask or by a swap is not pruned again.
    free = salience.masked_fill(mask, torch.inf)
    sign = error.sign()
    mask, swaps = mask.clone(), 0
    active = torch.ones_like(error, dtype=torch.bool)
    for _ in range(cycles):
        side = (error > 0).long()
        at = used[side, rows]
        active = active & (error.abs() > threshold) & (at < limits[side, rows])
        if not bool(active.any()):
            break
        grown = order[side, rows, at.clamp_max(count - 1)]
        used[side, rows] += 1
        members = (grown - grown % group)[:, None] + inside  # [out, M]
        lowest = free.gather(1, members).min(dim=1)
        dropped = members[rows, lowest.indices]
        following = error + influence[rows, dropped] - influence[rows, grown]
        possible = lowest.values < torch.inf
        # Skip a group that has nothing left to prune; a change of sign ends the row.
        active = active & (~possible | (following.sign() == sign))
        swapped = active & possible
        some = rows[swapped]
        mask[some, grown[swapped]] = False
        mask[some, dropped[swapped]] = True
        free[some, dropped[swapped]] = torch.inf
        error = torch.where(swapped, following, error)
        swaps += len(some)
    return Swapped(mask, swaps)


# The Hessian is only for the report, which compares the output error before and after the swaps.
UPDATER = Updater(StatisticNeeds(hessian=True, sums=True), dsnot_block)
