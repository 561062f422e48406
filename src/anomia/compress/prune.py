"""Pruning one block: every method, from statistics to zeros in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from anomia.compress.blocks import Matrix
from anomia.compress.magnitude import magnitude_mask
from anomia.compress.report import MatrixReport
from anomia.compress.sparsegpt import DAMPING, sparsegpt
from anomia.compress.spec import Target
from anomia.compress.statistics import Group, InputStatistic, Needs
from anomia.compress.wanda import wanda_mask

PruneGroup = Callable[[Sequence[Matrix], InputStatistic, Target], list[MatrixReport]]
UNREACHED = "no calibration token reached it: pruned by magnitude"


class Method(NamedTuple):
    """needs: the statistics it reads. prune: changes the matrices of a group in place."""

    needs: Needs
    prune: PruneGroup


def _wanda(matrices: Sequence[Matrix], statistic: InputStatistic, target: Target) -> list[MatrixReport]:
    dead = int((statistic.sum_squares == 0).sum())
    norms = statistic.norms
    return [
        zero(matrix, wanda_mask(matrix.weight, norms, target))._replace(dead_columns=dead)
        for matrix in matrices
    ]


def _sparsegpt(matrices: Sequence[Matrix], statistic: InputStatistic, target: Target) -> list[MatrixReport]:
    assert statistic.hessian is not None
    names = ", ".join(matrix.name for matrix in matrices)
    solved = sparsegpt([matrix.weight for matrix in matrices], statistic.hessian, target, where=names)
    note = f"damping raised to {solved.damping:g}" if solved.damping > DAMPING else ""
    reports = []
    for matrix, weight in zip(matrices, solved.weights, strict=True):
        matrix.weight.copy_(weight)
        reports.append(
            report_matrix(matrix)._replace(
                dead_columns=int(solved.dead.sum()), damping=solved.damping, note=note
            )
        )
    return reports


METHODS: Mapping[str, Method] = {
    "magnitude": Method(Needs(), lambda matrices, _, target: by_magnitude(matrices, target)),
    "wanda": Method(Needs(), _wanda),
    "sparsegpt": Method(Needs(hessian=True), _sparsegpt),
}


@torch.no_grad()
def prune_groups(method: str, groups: Sequence[Group], target: Target, *, where: str) -> list[MatrixReport]:
    """Prune all matrices of a block in place; names in the reports get the block's path in front.

    A matrix that no calibration token reached (an expert that was never chosen) is pruned by magnitude, and
    its report says so.
    """
    reports: list[MatrixReport] = []
    for group in groups:
        if group.statistic is None:
            reports += by_magnitude(group.matrices, target, note=UNREACHED)
        else:
            reports += METHODS[method].prune(group.matrices, group.statistic, target)
    return [report._replace(name=f"{where}.{report.name}") for report in reports]


def by_magnitude(matrices: Sequence[Matrix], target: Target, *, note: str = "") -> list[MatrixReport]:
    """Prune matrices by |W| in place, each by itself."""
    return [zero(matrix, magnitude_mask(matrix.weight, target))._replace(note=note) for matrix in matrices]


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
    zeros = int(np.count_nonzero((matrix.weight == 0).cpu().numpy()))
    return MatrixReport(matrix.name, (rows, columns), zeros)
