"""Magnitude pruning: remove the smallest weights of a matrix."""

from __future__ import annotations

import torch

from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.masks import Chosen, cut
from anomia.compress.methods.zeros import zero
from anomia.compress.report import MatrixReport
from anomia.compress.steps import Target

UNREACHED = "no calibration token reached it: pruned by magnitude"


def magnitude_cut(weight: torch.Tensor, target: Target) -> Chosen:
    """Choose the lowest `int(out × in × sparsity)` of |W| in the whole matrix, ties to the lowest row-major index.

    weight: [out, in]. A pattern is applied along rows.
    Source: Han et al. (2015); layer-wise and uniform as in Sun et al. (2024), Section 4.
    """
    return cut(weight.abs().float(), target, whole=True)


def prune_unreached(matrix: WeightMatrix, work: BlockWork, note: str = UNREACHED) -> MatrixReport:
    """Prune a matrix that can't be scored by magnitude, in place; used by every pruning method. note: why it can't."""
    assert work.target is not None
    report = _zero_smallest(matrix, work.target)
    return report._replace(note="; ".join(filter(None, (note, report.note))))


def _prune_block(work: BlockWork) -> list[MatrixReport]:
    assert work.target is not None
    return [_zero_smallest(matrix, work.target) for group in work.groups for matrix in group.matrices]


def _zero_smallest(matrix: WeightMatrix, target: Target) -> MatrixReport:
    return zero(matrix, magnitude_cut(matrix.weight, target))


METHOD = Method(None, _prune_block, prune_unreached)
