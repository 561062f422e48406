"""Repair: new values for the kept weights, whose outputs on the compressed model's inputs come close to base's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from anomia.compress.calibration import Batch
from anomia.compress.calls import run_block
from anomia.compress.exponents import far_exponent, shifted
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import BlockWork, Updater
from anomia.compress.methods.guided import FEW, Guidance, effective_tokens
from anomia.compress.methods.update import damped_diagonal, masked_least_squares
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.statistics import SharedInput, StatisticNeeds
from anomia.compress.steps import Update
from anomia.errors import RefusedError

NOT_PAIRED = (
    "not repaired: base's inputs and the compressed model's have no pairs here, as where experts are chosen"
)
"""The note of a matrix that stays as pruning left it."""


class PairedSums(NamedTuple):
    """Sums over the tokens t of a group of matrices with one input, each with its weight w_t; float32.

    hessian: Σ w x̂x̂ᵀ, [in, in], of the compressed model's inputs x̂. cross: Σ w xx̂ᵀ, [in, in], x being base's input
    for the same token. outputs: for each matrix, Σ w ‖Wx‖² with base's weights W.
    """

    hessian: torch.Tensor
    cross: torch.Tensor
    outputs: list[float]


@torch.no_grad()
def repair_block(work: BlockWork, dense: Mapping[str, torch.Tensor], update: Update) -> list[MatrixReport]:
    """Repair every matrix of a block in place, one group of shared inputs after the other.

    The inputs of a group are taken anew, after the groups before it were repaired.
    dense: the matrices before pruning by their names in the block, [out, in] each.
    update: with `guided`, tokens also count by the gradient of the final loss (`methods.guided`).

    Raises `CompressionError` for a block that can't be run by itself, and for values that are NaN or infinite.
    """
    reports = []
    for group in work.groups:
        guided = Guidance(None)
        if update.option("guided"):
            assert work.guide is not None
            guided = work.guide([matrix.name for matrix in group.matrices])
        sums = _paired_sums(check_alone(work), group.matrices, dense, guided.weights)
        if sums is None:
            reports += [report_matrix(matrix)._replace(note=NOT_PAIRED) for matrix in group.matrices]
            continue
        note = guided.note
        if guided.weights is not None and effective_tokens(guided.weights, work.batches) < len(sums.hessian):
            note = FEW
        reports += [
            report._replace(note="; ".join(part for part in (report.note, note) if part))
            for report in _repair_group(group, sums, dense, work.where)
        ]
    return reports


@torch.no_grad()
def aim_at_base(
    work: BlockWork, dense: Mapping[str, torch.Tensor]
) -> dict[str, Callable[[torch.Tensor], float]]:
    """Give each matrix of a dense block the weights W* whose outputs on the compressed model's inputs are base's.

    A method that then approximates W* on those inputs approximates base's outputs (Li et al. 2025, GPTAQ: asymmetric
    calibration). Matrices without pairs of inputs stay.
    dense: the matrices by their names in the block, [out, in] each.

    Returns, by name, the error of weights [out, in] against base's outputs.
    Raises `CompressionError` for a block that can't be run by itself, and for values that are NaN or infinite.
    """
    found: dict[str, Callable[[torch.Tensor], float]] = {}
    sums = [_paired_sums(check_alone(work), group.matrices, dense) for group in work.groups]
    for group, mine in zip(work.groups, sums, strict=True):
        if mine is None:
            continue
        _, damping = damped_diagonal(mine.hessian)
        for matrix, norm in zip(group.matrices, mine.outputs, strict=True):
            base = dense[matrix.name]
            name = f"{work.where}.{matrix.name}"
            matrix.weight.copy_(closest_weights(base.float(), mine.hessian, mine.cross, damping, where=name))
            found[matrix.name] = partial(paired_error, dense=base, sums=mine, outputs=norm)
    return found


def check_alone(work: BlockWork) -> BlockWork:
    """Return the work.

    Raises `CompressionError` if its block can't be run by itself.
    """
    if work.beside is None or (work.calls and work.calls[0].whole is not None):
        raise RefusedError(f"{work.where} can't be run by itself, which base's own inputs need")
    return work


def _repair_group(
    group: SharedInput, sums: PairedSums, dense: Mapping[str, torch.Tensor], where: str
) -> list[MatrixReport]:
    """Repair the matrices of a group, [out, in] each, in place."""
    reports = []
    _, damping = damped_diagonal(sums.hessian)
    for matrix, norm in zip(group.matrices, sums.outputs, strict=True):
        name = f"{where}.{matrix.name}"
        target = closest_weights(dense[matrix.name].float(), sums.hessian, sums.cross, damping, where=name)
        (new,) = masked_least_squares(
            [target], [matrix.weight == 0], sums.hessian, start=[matrix.weight], where=name
        ).weights
        matrix.weight.copy_(new)
        reports.append(
            report_matrix(matrix)._replace(error=paired_error(matrix.weight, dense[matrix.name], sums, norm))
        )
    return reports


def closest_weights(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    cross: torch.Tensor,
    damping: float,
    *,
    where: str = "a matrix",
) -> torch.Tensor:
    """Return the unconstrained weights whose outputs on x̂ are closest to base's: W* = (W·C + λW)(H + λI)⁻¹.

    It minimizes Σ w ‖Wx − W*x̂‖² + λ‖W* − W‖². For weights Ŵ with zeros, Σ w ‖Wx − Ŵx̂‖² + λ‖Ŵ − W‖² differs from
    ‖(Ŵ − W*)(H + λI)^½‖² by a constant, so the least squares of a mask with W* as the dense weights solve it exactly.

    Args:
        weight: W, [out, in] float32.
        hessian: H = Σ w x̂x̂ᵀ, [in, in] float32.
        cross: C = Σ w xx̂ᵀ, [in, in] float32.
        damping: λ, as in SparseGPT.

    Raises `CompressionError` if H + λI can't be inverted.
    """
    damped = hessian.clone()
    damped.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        raise RefusedError(
            f"{where}: the second moments of its inputs can't be inverted; use more calibration text"
        )
    right = (weight @ cross).add_(weight, alpha=damping)
    return torch.cholesky_solve(right.T, factor).T


def paired_error(weight: torch.Tensor, dense: torch.Tensor, sums: PairedSums, outputs: float) -> float:
    """Return Σ w ‖Ŵx̂ − Wx‖² / Σ w ‖Wx‖². weight: Ŵ, dense: W, [out, in] each. outputs: Σ w ‖Wx‖²."""
    exponent = -far_exponent([dense])
    mine, base = (shifted(part.float(), exponent) for part in (weight, dense))
    scale = 4.0**exponent
    quadratic = float(torch.linalg.vecdot(mine @ sums.hessian, mine).sum(dtype=torch.float64))
    mixed = float(torch.linalg.vecdot(base @ sums.cross, mine).sum(dtype=torch.float64))
    whole = outputs * scale
    return max(0.0, (whole - 2 * mixed + quadratic) / whole) if whole else 0.0


def _paired_sums(
    work: BlockWork,
    matrices: Sequence[WeightMatrix],
    dense: Mapping[str, torch.Tensor],
    guided: Sequence[torch.Tensor] | None = None,
) -> PairedSums | None:
    """Sum over all batches; None if the tokens of base and the compressed model can't be paired.

    matrices: those of a group, [out, in] each. dense: their values in base, by name. guided: further weights of the
    tokens, [B·S] float32 per batch.
    """
    modules = dict(work.block.named_modules())
    module = modules.get(matrices[0].name)
    if module is None or not isinstance(getattr(module, "weight", None), torch.Tensor):
        return None
    assert work.hidden is not None
    assert work.beside is not None
    hidden, beside, calls = work.hidden, work.beside, work.calls
    sums: PairedSums | None = None
    for index, batch in enumerate(work.batches):
        mine = _entering(module, lambda i=index: run_block(work.block, hidden(i), calls[i]), batch)  # type: ignore[misc]
        base = _entering(module, lambda i=index: beside.run(i), batch)  # type: ignore[misc]
        if mine is None or base is None:
            return None
        if sums is None:
            width = mine.shape[1]
            sums = PairedSums(
                mine.new_zeros(width, width), mine.new_zeros(width, width), [0.0] * len(matrices)
            )
        weights = batch.weights
        if guided is not None:
            weights = guided[index] if weights is None else guided[index] * weights
        if weights is not None:
            weights = weights if batch.real is None else weights[batch.real]
            mine, base = (part * weights.to(part.device).sqrt()[:, None] for part in (mine, base))
        sums.hessian.addmm_(mine.T, mine)
        sums.cross.addmm_(base.T, mine)
        for number, matrix in enumerate(matrices):
            sums.outputs[number] += float((base @ dense[matrix.name].float().T).square().sum())
    if sums is not None and not (torch.isfinite(sums.hessian).all() and torch.isfinite(sums.cross).all()):
        raise RefusedError(
            f"{work.where}.{matrices[0].name}: the activations that enter it are NaN, infinite or too large; load the "
            "model in a wider type (--dtype bfloat16 or float32)"
        )
    return sums


class _EnteredError(Exception):
    """Raised to end a pass once the input is read."""


def _entering(module: nn.Module, run: Callable[[], Any], batch: Batch) -> torch.Tensor | None:
    """Return a module's input in a pass, without padding, [T, in] float32; None if it isn't one row per token."""
    found: list[torch.Tensor] = []

    def read(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else next(iter(kwargs.values())))
        raise _EnteredError

    with _hooked(module, read), suppress(_EnteredError):
        run()
    if not found:
        return None
    rows = found[0].reshape(-1, found[0].shape[-1])
    if len(rows) != batch.input_ids.numel():
        return None
    return (rows if batch.real is None else rows[batch.real.to(rows.device)]).float()


@contextmanager
def _hooked(module: nn.Module, read: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


UPDATER = Updater(StatisticNeeds(), repair_block, beside=True)
