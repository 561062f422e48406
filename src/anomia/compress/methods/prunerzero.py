"""Pruner-Zero's published symbolic metric (Dong et al. 2024): |W·W|·minmax(G).

G is the L2 norm over calibration windows of the gradient of the dense model's language-modelling loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Windows
from anomia.compress.calls import check_tokens
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import UNREACHED, prune_unreached
from anomia.compress.methods.masks import Chosen, cut, lifted
from anomia.compress.methods.zeros import zero
from anomia.compress.products import Watched, WeightProducts
from anomia.compress.report import MatrixReport
from anomia.compress.steps import Target
from anomia.errors import RefusedError

CHOICES = (
    "the tree mul(abs(mul(W, W)), mms(G)) of the authors' repository, compared within each output row",
    "G is the L2 norm over windows of the loss gradient on the dense model, one window at a time",
    "the gradients use this run's calibration windows, where the authors use WikiText-2",
)


# Why a gradient is zero, other than that no token reached the matrix.
SILENT = "its inputs are zero for all calibration tokens, so its gradient is: pruned by magnitude"
ZERO = "its gradient is zero for all calibration tokens, or too small to be squared: pruned by magnitude"


def prunerzero_cut(weight: torch.Tensor, gradient: torch.Tensor, target: Target) -> Chosen:
    """Choose the lowest scores of every output row. weight, gradient: [out, in].

    Source: Dong et al. (2024), Equation 3 and the best tree of their repository; minmax runs over the matrix.
    """
    low, high = gradient.amin(), gradient.amax()
    scaled = (gradient - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    return cut(lifted(weight.abs().float()).square() * scaled, target, weight=weight)


def gradient_norms(
    model: nn.Module,
    decoder: DecoderBlocks,
    windows: Windows,
    matrices: Callable[[nn.Module, str], Sequence[WeightMatrix]],
) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, str]]]:
    """Return G of every matrix by block and name, [out, in] float32, and why it is zero where it is.

    matrices: lists a block's matrices.

    Keeps the weights, their gradients and the sums of squares in memory: about three times the blocks in float32.
    """
    device = next(model.parameters()).device
    trained = [
        parameter for block in decoder.modules for parameter in block.parameters() if parameter.dim() >= 2
    ]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    squares = {id(parameter): torch.zeros_like(parameter, dtype=torch.float32) for parameter in trained}
    mine = [matrices(block, decoder.path(index)) for index, block in enumerate(decoder.modules)]
    reached: set[str] = set()
    excited: set[str] = set()

    def take(name: str, inputs: torch.Tensor, _: torch.Tensor) -> None:
        reached.add(name)
        if name not in excited and bool(inputs.any()):
            excited.add(name)

    watched = [Watched(f"{index}.{m.name}", m.weight) for index, block in enumerate(mine) for m in block]
    try:
        for parameter in trained:
            parameter.requires_grad_(True)
        for ids in windows.token_ids:
            row = torch.tensor([ids], device=device)
            check_tokens(model, row)
            with torch.enable_grad():
                with WeightProducts(watched, take):
                    loss = model(input_ids=row, labels=row, use_cache=False).loss
                loss.backward()
            if not bool(torch.isfinite(loss)):
                raise RefusedError("the calibration loss is not finite; try another dtype")
            for parameter in trained:
                if parameter.grad is not None:
                    squares[id(parameter)] += parameter.grad.float().square()
                    parameter.grad = None
    finally:
        for parameter, was in zip(model.parameters(), asked, strict=True):
            parameter.grad = None
            parameter.requires_grad_(was)
    norms = [
        {matrix.name: _like(matrix, block, squares).sqrt() for matrix in found}
        for block, found in zip(decoder.modules, mine, strict=True)
    ]
    why = [
        {
            name: UNREACHED
            if f"{index}.{name}" not in reached
            else ZERO
            if f"{index}.{name}" in excited
            else SILENT
            for name, gradient in found.items()
            if not bool(gradient.any())
        }
        for index, found in enumerate(norms)
    ]
    return norms, why


def _like(matrix: WeightMatrix, block: nn.Module, squares: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Return a view of the squares [out, in] for a matrix: a whole parameter, its transpose, or one expert's slice."""
    storage = matrix.weight.untyped_storage().data_ptr()
    for parameter in block.parameters():
        offset = int(matrix.weight.storage_offset()) - int(parameter.storage_offset())
        shares = parameter.untyped_storage().data_ptr() == storage and 0 <= offset < parameter.numel()
        if shares and id(parameter) in squares:
            flat = squares[id(parameter)].reshape(-1)
            return torch.as_strided(flat, tuple(matrix.weight.shape), matrix.weight.stride(), offset)
    raise RefusedError(f"{matrix.name} has no gradient")


def _prune_block(work: BlockWork) -> list[MatrixReport]:
    assert work.target is not None
    reports = []
    for group in work.groups:
        for matrix, gradient in zip(group.matrices, group.gradients, strict=True):
            if bool(gradient.any()):
                reports.append(zero(matrix, prunerzero_cut(matrix.weight, gradient, work.target)))
            else:
                note = work.unscored.get(matrix.name, UNREACHED)
                reports.append(prune_unreached(matrix, work, note))
    return reports


METHOD = Method(None, _prune_block, prune_unreached, CHOICES, whole_gradients=gradient_norms)
