"""Zeros in a matrix: set them, count them, and compare their number with the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.masks import Chosen
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import InputStatistic
from anomia.compress.steps import Pattern, Target
from anomia.errors import RefusedError

# SparseGPT's blocks of columns; it rounds down in each block.
COLUMNS = 128

MORE = "more zeros than asked for"
NOTHING = "nothing was pruned: the sparsity is less than one weight of those that are compared"
TIES = (
    "more than a tenth of the pruned weights have the same score as a kept one: there their position decided, "
    "not the method"
)
DEAD_TIES = (
    "more than a tenth of the pruned weights were chosen by position, since their score ties at zero with "
    "kept ones: their inputs or gradients were zero or too small for all calibration tokens; use more or "
    "other text"
)
_MANY_TIES = 0.1
# Tolerance as a fraction of the weights: ties and single weights that round to zero get no note.
_SLACK = 1e-3


def zero(matrix: WeightMatrix, chosen: Chosen) -> MatrixReport:
    """Set the masked weights to zero in place, and leave every other bit unchanged. The mask is [out, in]."""
    weight, mask = matrix.weight, chosen.mask
    bits = {2: torch.int16, 4: torch.int32}.get(weight.element_size())
    if bits is None:
        weight.masked_fill_(mask, 0)
    else:
        # `masked_fill_` handles half-precision numbers one at a time; this uses vector instructions.
        weight.view(bits).bitwise_and_(mask.to(bits).sub_(1))
    tied = chosen.by_order + chosen.at_zero > _MANY_TIES * max(1, int(mask.sum()))
    which = DEAD_TIES if chosen.at_zero > chosen.by_order else TIES
    return report_matrix(matrix)._replace(note=which if tied else "")


def zero_all(
    matrices: Sequence[WeightMatrix], cuts: Sequence[Chosen], statistic: InputStatistic
) -> list[MatrixReport]:
    """Call `zero` for matrices that share an input."""
    dead = int((statistic.sum_squares == 0).sum())
    pairs = zip(matrices, cuts, strict=True)
    return [zero(matrix, chosen)._replace(dead_columns=dead) for matrix, chosen in pairs]


def report_matrix(matrix: WeightMatrix) -> MatrixReport:
    """Report a matrix in its current state."""
    rows, columns = matrix.weight.shape
    return MatrixReport(matrix.name, (rows, columns), count_zeros(matrix.weight))


def count_zeros(weight: torch.Tensor) -> int:
    """Count the zeros of either sign. weight: any shape."""
    if weight.device.type == "cpu" and weight.element_size() == 2 and weight.is_floating_point():
        # Count on integers without the sign bit, since half-precision numbers are compared one at a time.
        magnitudes = weight.detach().view(torch.int16).numpy().view(np.uint16) << 1
        return weight.numel() - int(np.count_nonzero(magnitudes))
    return int((weight == 0).sum())


def check_zeros(report: MatrixReport, target: Target, where: str) -> None:
    """Refuse a matrix with fewer zeros than requested, whatever the reason."""
    fewest = _fewest(report.shape, target)
    if report.zeros < fewest:
        raise RefusedError(
            f"{where}.{report.name} has {report.zeros:,} zeros after pruning where {fewest:,} were asked for; its "
            "scores can't be compared. Please report this with the model's name"
        )


def note_zeros(
    report: MatrixReport, matrix: WeightMatrix, statistic: InputStatistic | None, target: Target, before: int
) -> MatrixReport:
    """Add a note to the report if the number of zeros isn't the requested one, with the reason.

    matrix: [out, in], in its current state. statistic: of its inputs, [in]. before: its zeros before the step.
    Differences from a method's rounding down get no note.
    """
    rows, columns = report.shape
    wanted = rows * columns * (target.sparsity if isinstance(target, Pattern) else target)
    slack = max(1.0, _SLACK * rows * columns)
    note = ""
    if wanted > 0 and report.zeros <= before and _fewest(report.shape, target) == 0:
        note = NOTHING
    elif report.zeros > wanted + slack:
        dtype = str(matrix.weight.dtype).removeprefix("torch.")
        reasons = []
        if before > slack:
            reasons.append(f"weights were zero before, in the files or as they are loaded ({dtype})")
        if (before <= slack or report.zeros > before + slack) and _dead_are_gone(matrix, statistic):
            reasons.append("inputs that no calibration token excited, or hardly, lose all their weights")
        note = f"{MORE}: {', and '.join(reasons) or f'equal scores, or new weights too small for {dtype}'}"
    return report._replace(note="; ".join(part for part in (report.note, note) if part))


def _dead_are_gone(matrix: WeightMatrix, statistic: InputStatistic | None) -> bool:
    """Whether some inputs are always zero, and all their weights are zero."""
    if statistic is None:
        return False
    dead = statistic.sum_squares == 0
    return bool(dead.any()) and not bool(matrix.weight[:, dead].any())


def _fewest(shape: tuple[int, int], target: Target) -> int:
    """Return the minimum number of zeros of all methods, which round down in different groups."""
    rows, columns = shape
    if isinstance(target, Pattern):
        return rows * columns * (target.group - target.keep) // target.group
    # Methods round down per row, per block of columns, or in the whole matrix.
    fewest = min(rows * int(columns * target), int(rows * columns * target))
    widths = [min(COLUMNS, columns - start) for start in range(0, columns, COLUMNS)]
    return min(fewest, sum(int(rows * width * target) for width in widths))
