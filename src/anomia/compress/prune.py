"""Pruning one block: every method, from statistics to zeros in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from anomia.compress.methods import mwanda, prunerzero
from anomia.compress.blocks import Matrix
from anomia.compress.methods.magnitude import magnitude_mask
from anomia.compress.report import MatrixReport
from anomia.compress.methods.sparsegpt import BLOCK, DAMPING, sparsegpt
from anomia.compress.spec import Pattern, Target
from anomia.compress.statistics import Group, InputStatistic, Needs
from anomia.compress.methods.wanda import wanda_mask
from anomia.errors import CompressionError

UNREACHED = "no calibration token reached it: pruned by magnitude"


class Method(NamedTuple):
    """needs: the statistics it reads, `None` for none. prune: changes a group's matrices in place."""

    needs: Needs | None
    prune: Callable[[Group, Target], list[MatrixReport]]
    choices: tuple[str, ...] = ()


def _magnitude(group: Group, target: Target) -> list[MatrixReport]:
    return _by_magnitude(group.matrices, target)


def _wanda(group: Group, target: Target) -> list[MatrixReport]:
    statistic = _statistic(group)
    norms = statistic.norms
    masks = [wanda_mask(matrix.weight, norms, target) for matrix in group.matrices]
    return _zero_all(group.matrices, masks, statistic)


def _mwanda(group: Group, target: Target) -> list[MatrixReport]:
    statistic = _statistic(group)
    masks = [mwanda.mwanda_mask(matrix.weight, statistic, target) for matrix in group.matrices]
    return _zero_all(group.matrices, masks, statistic)


def _sparsegpt(group: Group, target: Target) -> list[MatrixReport]:
    hessian = _statistic(group).hessian
    assert hessian is not None
    names = ", ".join(matrix.name for matrix in group.matrices)
    solved = sparsegpt([matrix.weight for matrix in group.matrices], hessian, target, where=names)
    note = f"damping raised to {solved.damping:g}" if solved.damping > DAMPING else ""
    dead = int(solved.dead.sum())
    reports = []
    for matrix, weight in zip(group.matrices, solved.weights, strict=True):
        matrix.weight.copy_(weight)
        report = report_matrix(matrix)
        reports.append(report._replace(dead_columns=dead, damping=solved.damping, note=note))
    return reports


def _prunerzero(group: Group, target: Target) -> list[MatrixReport]:
    reports: list[MatrixReport] = []
    for matrix, gradient in zip(group.matrices, group.gradients, strict=True):
        if not bool(gradient.any()):
            reports += _by_magnitude([matrix], target, note=UNREACHED)
        else:
            reports.append(zero(matrix, prunerzero.prunerzero_mask(matrix.weight, gradient, target)))
    return reports


METHODS: Mapping[str, Method] = {
    "magnitude": Method(None, _magnitude),
    "wanda": Method(Needs(), _wanda),
    "sparsegpt": Method(Needs(hessian=True), _sparsegpt),
    "mwanda": Method(Needs(languages=True), _mwanda, mwanda.CHOICES),
    "prunerzero": Method(None, _prunerzero, prunerzero.CHOICES),
}


@torch.no_grad()
def prune_groups(method: str, groups: Sequence[Group], target: Target, *, where: str) -> list[MatrixReport]:
    """Prune all matrices of a block in place; names in the reports get the block's path in front.

    A matrix that no calibration token reached (an expert that was never chosen) is pruned by magnitude, and
    its report says so.

    Raises:
        CompressionError: weights or gradients are NaN or infinite, or fewer zeros came out than were asked for.
    """
    chosen = METHODS[method]
    reports: list[MatrixReport] = []
    for group in groups:
        _check_finite(group, where)
        if chosen.needs is not None and group.statistic is None:
            done = _by_magnitude(group.matrices, target, note=UNREACHED)
        else:
            done = chosen.prune(group, target)
        for report in done:
            _check_zeros(report, target, where)
        reports += done
    return [report._replace(name=f"{where}.{report.name}") for report in reports]


def _check_finite(group: Group, where: str) -> None:
    """Refuses weights and gradients that are NaN or infinite: no comparison with them holds."""
    values = {f"{where}.{matrix.name}": matrix.weight for matrix in group.matrices}
    values |= {
        f"the gradient of {where}.{matrix.name}": gradient
        for matrix, gradient in zip(group.matrices, group.gradients, strict=False)
    }
    for name, tensor in values.items():
        broken = int((~torch.isfinite(tensor)).sum())
        if broken:
            raise CompressionError(
                f"{name} has {broken:,} of {tensor.numel():,} values that are NaN or infinite, so it can't be pruned; "
                "the model is damaged, or needs a wider type (--dtype bfloat16 or float32)"
            )


def _check_zeros(report: MatrixReport, target: Target, where: str) -> None:
    """Refuses a matrix that has fewer zeros than were asked for, whatever the reason."""
    rows, columns = report.shape
    if isinstance(target, Pattern):
        fewest = rows * columns * (target.group - target.keep) // target.group
    else:
        # Each method rounds down in groups of its own: rows, blocks of columns, the whole matrix.
        fewest = min(rows * int(columns * target), int(rows * columns * target))
        fewest = min(fewest, sum(int(rows * size * target) for size in _blocks(columns)))
    if report.zeros < fewest:
        raise CompressionError(
            f"{where}.{report.name} has {report.zeros:,} zeros after pruning where {fewest:,} were asked for; its "
            "scores can't be compared. Please report this with the model's name"
        )


def _blocks(columns: int) -> list[int]:
    """Widths of SparseGPT's blocks of columns."""
    return [min(BLOCK, columns - start) for start in range(0, columns, BLOCK)]


def zero(matrix: Matrix, mask: torch.Tensor) -> MatrixReport:
    """Set the masked weights to zero in place and leave every other bit as it is. mask: [out, in] bool."""
    weight = matrix.weight
    bits = {2: torch.int16, 4: torch.int32}.get(weight.element_size())
    if bits is None:
        weight.masked_fill_(mask, 0)
    else:
        # `masked_fill_` handles half-precision numbers one at a time; these are vector instructions.
        weight.view(bits).bitwise_and_(mask.to(bits).sub_(1))
    return report_matrix(matrix)


def report_matrix(matrix: Matrix) -> MatrixReport:
    """The matrix as it is now."""
    rows, columns = matrix.weight.shape
    return MatrixReport(matrix.name, (rows, columns), count_zeros(matrix.weight))


def count_zeros(weight: torch.Tensor) -> int:
    """How many values are zero, of either sign."""
    if weight.device.type == "cpu" and weight.element_size() == 2 and weight.is_floating_point():
        # The bits without the sign, as integers: half-precision numbers are compared one at a time.
        magnitudes = weight.detach().view(torch.int16).numpy().view(np.uint16) << 1
        return weight.numel() - int(np.count_nonzero(magnitudes))
    return int((weight == 0).sum())


def _by_magnitude(matrices: Sequence[Matrix], target: Target, *, note: str = "") -> list[MatrixReport]:
    return [zero(matrix, magnitude_mask(matrix.weight, target))._replace(note=note) for matrix in matrices]


def _zero_all(
    matrices: Sequence[Matrix], masks: Sequence[torch.Tensor], statistic: InputStatistic
) -> list[MatrixReport]:
    dead = int((statistic.sum_squares == 0).sum())
    pairs = zip(matrices, masks, strict=True)
    return [zero(matrix, mask)._replace(dead_columns=dead) for matrix, mask in pairs]


def _statistic(group: Group) -> InputStatistic:
    assert group.statistic is not None
    return group.statistic
