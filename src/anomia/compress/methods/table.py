"""The one table of methods that go through a model block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from anomia.compress.blocks import Matrix
from anomia.compress.methods import mwanda, prunerzero
from anomia.compress.methods.alps import alps_block
from anomia.compress.methods.awq import awq_block
from anomia.compress.methods.base import BlockWork, Method, Updater
from anomia.compress.methods.dsnot import dsnot_block
from anomia.compress.methods.gptq import gptq_block, round_unreached
from anomia.compress.methods.quantize import ROUNDED, round_block
from anomia.compress.methods.ria import reorder_block, ria_block
from anomia.compress.methods.sparsegpt import DAMPING, sparsegpt
from anomia.compress.methods.update import update_block
from anomia.compress.methods.wanda import wanda_mask
from anomia.compress.methods.wandapp import wandapp_block
from anomia.compress.methods.zeros import by_magnitude, report_matrix, zero, zero_all
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import Group, InputStatistic, Needs
from anomia.compress.steps import Target

UNREACHED = "no calibration token reached it: pruned by magnitude"

Masks = Callable[[Sequence[Matrix], InputStatistic, Target], Sequence[torch.Tensor]]


def _by_mask(needs: Needs, masks: Masks, choices: tuple[str, ...] = ()) -> Method:
    """A method that sets weights to zero, group by group, and changes nothing else."""

    def run(work: BlockWork) -> list[MatrixReport]:
        reports: list[MatrixReport] = []
        for group in work.groups:
            statistic = _statistic(group)
            assert work.target is not None
            reports += zero_all(group.matrices, masks(group.matrices, statistic, work.target), statistic)
        return reports

    return Method(needs, run, _unreached, choices)


def _magnitude(work: BlockWork) -> list[MatrixReport]:
    assert work.target is not None
    return by_magnitude([matrix for group in work.groups for matrix in group.matrices], work.target)


def _unreached(matrix: Matrix, work: BlockWork) -> MatrixReport:
    assert work.target is not None
    return by_magnitude([matrix], work.target, note=UNREACHED)[0]


def _sparsegpt(work: BlockWork) -> list[MatrixReport]:
    reports = []
    for group in work.groups:
        hessian = _statistic(group).hessian
        assert hessian is not None
        assert work.target is not None
        names = f"{work.where}.{', '.join(matrix.name for matrix in group.matrices)}"
        weights = [matrix.weight for matrix in group.matrices]
        solved = sparsegpt(weights, hessian, work.target, where=names)
        note = f"damping raised to {solved.damping:g}" if solved.damping > DAMPING else ""
        dead = int(solved.dead.sum())
        for matrix, weight in zip(group.matrices, solved.weights, strict=True):
            matrix.weight.copy_(weight)
            report = report_matrix(matrix)
            reports.append(report._replace(dead_columns=dead, damping=solved.damping, note=note))
    return reports


def _prunerzero(work: BlockWork) -> list[MatrixReport]:
    reports: list[MatrixReport] = []
    assert work.target is not None
    for group in work.groups:
        for matrix, gradient in zip(group.matrices, group.gradients, strict=True):
            if not bool(gradient.any()):
                reports.append(_unreached(matrix, work))
            else:
                reports.append(zero(matrix, prunerzero.prunerzero_mask(matrix.weight, gradient, work.target)))
    return reports


def _statistic(group: Group) -> InputStatistic:
    assert group.statistic is not None
    return group.statistic


METHODS: Mapping[str, Method] = {
    "magnitude": Method(None, _magnitude, _unreached),
    "wanda": _by_mask(Needs(), lambda ms, s, t: [wanda_mask(m.weight, s.norms, t) for m in ms]),
    "sparsegpt": Method(Needs(hessian=True), _sparsegpt, _unreached),
    "mwanda": _by_mask(
        Needs(languages=True),
        lambda ms, s, t: [mwanda.mwanda_mask(m.weight, s, t) for m in ms],
        mwanda.CHOICES,
    ),
    "prunerzero": Method(None, _prunerzero, _unreached, prunerzero.CHOICES, whole_gradients=True),
    "alps": Method(Needs(hessian=True), alps_block, _unreached),
    "ria": Method(Needs(), ria_block, _unreached, prepare=reorder_block),
    "wandapp": Method(Needs(), wandapp_block, _unreached),
    "gptq": Method(Needs(hessian=True), gptq_block, round_unreached),
    "awq": Method(Needs(hessian=True, sums=True), awq_block, round_unreached),
    **dict.fromkeys(ROUNDED, Method(None, round_block, _unreached)),
}
"""By the names of `steps.PRUNING_METHODS` and `steps.QUANTIZATION_METHODS`, but for llm.int8, which replaces layers."""

UPDATERS: Mapping[str, Updater] = {
    "update": Updater(Needs(hessian=True), update_block),
    # The Hessian is for the report: whether the swaps made the output's error larger.
    "dsnot": Updater(Needs(hessian=True, sums=True), dsnot_block),
}
"""By the names of `steps.UPDATES`."""
