"""RIA: score by relative importance in row and column times activation (Zhang et al. 2024, Plug-and-Play)."""

from __future__ import annotations

import torch

from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.masks import Chosen, cut, lifted
from anomia.compress.methods.permute import fitting_order, permute_channels
from anomia.compress.methods.zeros import zero_all
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Pattern, Prune, Target

POWER = 0.5
_FIXED = "pattern without permutation: the order of its inputs is set by other layers too"


def ria_scores(weight: torch.Tensor, norms: torch.Tensor, *, power: float = POWER) -> torch.Tensor:
    """Return (|W|/Σ|W| over its row + |W|/Σ|W| over its column)·‖X‖₂^power. weight: [out, in]; norms: [in].

    The scores are [out, in] float32; those of a row or column of zeros are zero.
    Source: Zhang et al. (2024), Equations 2 and 3.
    """
    size = lifted(weight.abs().float())
    tiny = torch.finfo(torch.float32).tiny
    rows, columns = size.sum(dim=1, keepdim=True), size.sum(dim=0, keepdim=True)
    return (size / rows.clamp_min(tiny) + size / columns.clamp_min(tiny)) * norms.pow(power)


def ria_cut(weight: torch.Tensor, norms: torch.Tensor, target: Target) -> Chosen:
    """Choose the lowest `int(out × in × sparsity)` scores of the whole matrix, or of every M inputs for a pattern.

    weight: [out, in]; norms: [in].
    Source: the authors' code, which by default compares scores over the whole matrix.
    """
    return cut(ria_scores(weight, norms), target, whole=True, weight=weight)


@torch.no_grad()
def reorder_block(work: BlockWork) -> None:
    """Reorder the channels in MLPs and heads for a pattern, in weights and statistics.

    The block's output stays the same. Does nothing for a plain sparsity, or with `permute=no`.
    """
    step, target = work.step, work.target
    if not isinstance(step, Prune) or not isinstance(target, Pattern) or not step.option("permute"):
        return

    work.reordered = permute_channels(
        work, ria_scores, lambda scores: fitting_order(scores, target), multiple=target.group
    )


@torch.no_grad()
def ria_block(work: BlockWork) -> list[MatrixReport]:
    """Prune every matrix, [out, in], of a block that calibration tokens reached, in place."""
    target = work.target
    assert target is not None
    assert isinstance(work.step, Prune)
    permuting = isinstance(target, Pattern) and work.step.option("permute")
    reports: list[MatrixReport] = []
    for group in work.groups:
        assert group.statistic is not None
        norms = group.statistic.norms
        cuts = [ria_cut(matrix.weight, norms, target) for matrix in group.matrices]
        for report in zero_all(group.matrices, cuts, group.statistic):
            fixed = permuting and report.name not in work.reordered
            notes = (_FIXED if fixed else work.reordered.get(report.name, ""), report.note)
            reports.append(report._replace(note="; ".join(filter(None, notes))))
    return reports


METHOD = Method(StatisticNeeds(), ria_block, prune_unreached, prepare=reorder_block, runs_block=True)
