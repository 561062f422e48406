"""Zeros in a matrix: setting them, counting them, and whether as many are there as were asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from anomia.compress.blocks import Matrix
from anomia.compress.methods.magnitude import magnitude_mask
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import InputStatistic
from anomia.compress.steps import Pattern, Target
from anomia.errors import CompressionError

# SparseGPT's blocks of columns: it rounds down in each.
COLUMNS = 128


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


def zero_all(
    matrices: Sequence[Matrix], masks: Sequence[torch.Tensor], statistic: InputStatistic
) -> list[MatrixReport]:
    """`zero` for matrices that share an input. masks: [out, in] bool each."""
    dead = int((statistic.sum_squares == 0).sum())
    pairs = zip(matrices, masks, strict=True)
    return [zero(matrix, mask)._replace(dead_columns=dead) for matrix, mask in pairs]


def by_magnitude(matrices: Sequence[Matrix], target: Target, *, note: str = "") -> list[MatrixReport]:
    """Prune matrices by magnitude, whatever the method: where nothing is known of their inputs."""
    return [zero(matrix, magnitude_mask(matrix.weight, target))._replace(note=note) for matrix in matrices]


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


def check_zeros(report: MatrixReport, target: Target, where: str) -> None:
    """Refuses a matrix that has fewer zeros than were asked for, whatever the reason."""
    rows, columns = report.shape
    if isinstance(target, Pattern):
        fewest = rows * columns * (target.group - target.keep) // target.group
    else:
        # Each method rounds down in groups of its own: rows, blocks of columns, the whole matrix.
        fewest = min(rows * int(columns * target), int(rows * columns * target))
        widths = [min(COLUMNS, columns - start) for start in range(0, columns, COLUMNS)]
        fewest = min(fewest, sum(int(rows * width * target) for width in widths))
    if report.zeros < fewest:
        raise CompressionError(
            f"{where}.{report.name} has {report.zeros:,} zeros after pruning where {fewest:,} were asked for; its "
            "scores can't be compared. Please report this with the model's name"
        )
