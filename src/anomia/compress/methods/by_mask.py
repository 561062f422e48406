"""Methods that only set weights to zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.zeros import zero_all
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import InputStatistic, Needs
from anomia.compress.steps import Target

Mask = Callable[[WeightMatrix, InputStatistic, Target], torch.Tensor]


def by_mask(needs: Needs, mask: Mask, choices: tuple[str, ...] = ()) -> Method:
    """Make a method from its mask function. mask: returns [out, in] bool for a matrix, True where it is pruned."""

    def run(work: BlockWork) -> list[MatrixReport]:
        assert work.target is not None
        reports: list[MatrixReport] = []
        for group in work.groups:
            assert group.statistic is not None
            masks = [mask(matrix, group.statistic, work.target) for matrix in group.matrices]
            reports += zero_all(group.matrices, masks, group.statistic)
        return reports

    return Method(needs, run, prune_unreached, choices)
