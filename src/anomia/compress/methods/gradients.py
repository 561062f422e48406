"""Gradients of the language-modelling loss of the dense model, squared and summed over calibration windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.calibration import Windows
from anomia.compress.calls import check_tokens
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.magnitude import UNREACHED
from anomia.compress.products import Watched, WeightProducts
from anomia.errors import RefusedError

# What transformers leaves out of the loss.
_IGNORED = -100
# Why a gradient is zero, other than that no token reached the matrix.
SILENT = "its inputs are zero for all calibration tokens, so its gradient is: pruned by magnitude"
ZERO = "its gradient is zero for all calibration tokens, or too small to be squared: pruned by magnitude"


def gradient_norms(
    model: nn.Module,
    decoder: DecoderBlocks,
    windows: Windows,
    matrices: Callable[[nn.Module, str], Sequence[WeightMatrix]],
    *,
    of_answers: bool = False,
) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, str]]]:
    """Return the L2 norm over windows of each matrix's gradient, by block and name, and why it is zero where it is.

    The norms are [out, in] float32. The loss is the mean over a window's tokens.
    matrices: lists a block's matrices.
    of_answers: take the sum of the loss over the tokens of the answer instead, in windows that have one, and over all
    tokens in the others.

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
        starts: Sequence[int | None] = windows.answer_starts or (None,) * len(windows.token_ids)
        for ids, start in zip(windows.token_ids, starts, strict=True):
            row = torch.tensor([ids], device=device)
            check_tokens(model, row)
            labels, counted = row, 1
            if of_answers:
                first = 1 if start is None else start
                labels, counted = row.clone(), len(ids) - first
                labels[:, :first] = _IGNORED
            with torch.enable_grad():
                with WeightProducts(watched, take):
                    loss = model(input_ids=row, labels=labels, use_cache=False).loss * counted
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
        {matrix.name: view_like(matrix, block, squares).sqrt() for matrix in found}
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


def view_like(matrix: WeightMatrix, block: nn.Module, squares: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Return a matrix's view [out, in] of values by parameter: all of them, transposed, or one expert's slice."""
    storage = matrix.weight.untyped_storage().data_ptr()
    for parameter in block.parameters():
        offset = int(matrix.weight.storage_offset()) - int(parameter.storage_offset())
        shares = parameter.untyped_storage().data_ptr() == storage and 0 <= offset < parameter.numel()
        if shares and id(parameter) in squares:
            flat = squares[id(parameter)].reshape(-1)
            return torch.as_strided(flat, tuple(matrix.weight.shape), matrix.weight.stride(), offset)
    raise RefusedError(f"{matrix.name} has no gradient")
