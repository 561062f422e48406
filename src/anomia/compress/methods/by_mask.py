"""Methods that only set weights to zero."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import BlockWork, Method, WholeGradients
from anomia.compress.methods.magnitude import UNREACHED, prune_unreached
from anomia.compress.methods.masks import Chosen
from anomia.compress.methods.zeros import zero, zero_all
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import InputStatistic, StatisticNeeds
from anomia.compress.steps import Target

Choose = Callable[[WeightMatrix, InputStatistic, Target], Chosen]


def by_mask(needs: StatisticNeeds, choose: Choose, choices: tuple[str, ...] = ()) -> Method:
    """Make a method from the function that chooses what is pruned of a matrix (`masks.cut` of its scores)."""

    def run(work: BlockWork) -> list[MatrixReport]:
        assert work.target is not None
        reports: list[MatrixReport] = []
        for group in work.groups:
            assert group.statistic is not None
            cuts = [choose(matrix, group.statistic, work.target) for matrix in group.matrices]
            reports += zero_all(group.matrices, cuts, group.statistic)
        return reports

    return Method(needs, run, prune_unreached, choices)


def by_gradient(
    choose: Callable[[torch.Tensor, torch.Tensor, Target], Chosen],
    gradients: WholeGradients,
    choices: tuple[str, ...] = (),
) -> Method:
    """Make a method from the function that chooses what is pruned of a matrix by its gradients.

    choose: gets a weight and its gradients' norm over windows, [out, in] each. gradients: what computes these norms.
    """

    def run(work: BlockWork) -> list[MatrixReport]:
        assert work.target is not None
        reports: list[MatrixReport] = []
        for group in work.groups:
            for matrix, gradient in zip(group.matrices, group.gradients, strict=True):
                if bool(gradient.any()):
                    reports.append(zero(matrix, choose(matrix.weight, gradient, work.target)))
                else:
                    reports.append(prune_unreached(matrix, work, work.unscored.get(matrix.name, UNREACHED)))
        return reports

    return Method(None, run, prune_unreached, choices, whole_gradients=gradients)
