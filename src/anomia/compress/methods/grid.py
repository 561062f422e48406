"""Integer grids for weights: scales and zero points per group of inputs, codes, and dequantized values."""

from __future__ import annotations

from typing import NamedTuple

import torch

from anomia.compress.catalogue import GROUP
from anomia.compress.exponents import far_exponent, shifted
from anomia.compress.steps import Quantize

# Candidate limits of a group's range, as fractions of its largest weight; Lin et al. (2024) search these.
_SHRINKS = tuple(1 - step / 20 for step in range(10))


class Grid(NamedTuple):
    """An integer grid.

    bits: per code, 2 to 8. group: group size, the consecutive inputs that share a scale; None for the whole row.
    symmetric: the zero point is 2^(bits − 1) for every group. dtype: of the stored scales and the dequantized values.
    """

    bits: int
    group: int | None = GROUP
    symmetric: bool = True
    dtype: torch.dtype = torch.float32

    @property
    def levels(self) -> int:
        """The largest code, 2^bits − 1."""
        return int(2**self.bits - 1)

    @property
    def middle(self) -> int:
        """The code for zero in a symmetric grid."""
        return int(2 ** (self.bits - 1))

    def width(self, columns: int) -> int:
        """Return the group size for a matrix with this many columns."""
        return columns if self.group is None else self.group


def grid_of(step: Quantize, dtype: torch.dtype) -> Grid:
    """Return the grid of a GPTQ or AWQ step. dtype: of the model, in which the scales are stored."""
    assert step.bits is not None
    return Grid(step.bits, step.option("group"), is_symmetric(step), dtype)


def is_symmetric(step: Quantize) -> bool:
    """Whether a GPTQ or AWQ step has no zero points."""
    return bool(step.option("symmetric"))


class Quantized(NamedTuple):
    """A quantized matrix.

    codes: [out, in] uint8. scales: [out, groups] in their stored type. zeros: zero points, [out, groups] uint8, also if
    the grid is symmetric and they are all the same.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    grid: Grid

    def values(self) -> torch.Tensor:
        """Return the dequantized weights, [out, in] in the scales' type: (code − zero) × scale, rounded once."""
        width = self.codes.shape[1] // self.scales.shape[1]
        steps = self.codes.reshape(len(self.codes), -1, width).float() - self.zeros[..., None].float()
        values: torch.Tensor = (steps * self.scales[..., None].float()).to(self.scales.dtype)
        return values.flatten(1)


def fit(low: torch.Tensor, high: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scales and zero points for ranges of weights, both float32 in the shape of `low`.

    low, high: lowest and highest weight of each group, in any shape. Scales are rounded to their stored type here, so
    that codes are chosen for the stored scales. Zero is always on the grid. As in the code of GPTQ's authors, a
    symmetric range is 2·max|w| wide and has 2^bits − 1 steps.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    width = 2 * torch.maximum(-low, high) if grid.symmetric else high - low
    scales = (width / grid.levels).to(grid.dtype)
    # For a group of zeros, or of weights too small for the type's scales, any scale will do. Float16 has so little room
    # that subnormal scales matter: at 8 bits, weights below 0.008 need them.
    info = torch.finfo(grid.dtype)
    scales = scales.clamp(min=info.tiny * info.eps if grid.dtype == torch.float16 else info.tiny).float()
    if grid.symmetric:
        return scales, torch.full_like(scales, grid.middle)
    return scales, (-low / scales).round_().clamp_(0, grid.levels)


def to_codes(weights: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, levels: int) -> torch.Tensor:
    """Return the nearest codes, float32 in the weights' shape; scales and zeros broadcast against it."""
    return (weights / scales).round_().add_(zeros).clamp_(0, levels)


def round_to_nearest(weight: torch.Tensor, grid: Grid, *, hessian: torch.Tensor | None = None) -> Quantized:
    """Round every weight to the nearest point of its group's grid. weight: [out, in].

    hessian: X·Xᵀ, [in, in]; if given, the range of each group is searched (`search_ranges`), otherwise it ends at the
    group's extreme weights.
    """
    grouped = weight.float().reshape(len(weight), -1, grid.width(weight.shape[1]))  # [out, groups, g]
    low, high = grouped.amin(dim=2), grouped.amax(dim=2)
    if hessian is not None:
        low, high = search_ranges(weight, grid, hessian)
    scales, zeros = fit(low, high, grid)
    codes = to_codes(grouped, scales[..., None], zeros[..., None], grid.levels)
    return Quantized(codes.to(torch.uint8).flatten(1), scales.to(grid.dtype), zeros.to(torch.uint8), grid)


@torch.no_grad()
def search_ranges(
    weight: torch.Tensor, grid: Grid, hessian: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search the range of each group; returns its lowest and highest weight, [out, groups] each.

    Clipping damages the few largest weights and makes the steps finer for all others. Of ten fractions of the largest
    |w|, from 1 down to 0.55, this chooses the one with the least error of the group's part of the output, e·H_gg·eᵀ.

    weight: [out, in]. hessian: X·Xᵀ, [in, in].
    Source: Lin et al. (2024), `auto_clip` of their code, which samples tokens; this uses the sums over all tokens.
    """
    width = grid.width(weight.shape[1])
    exponent = far_exponent([weight])
    grouped = shifted(weight.float(), -exponent).reshape(len(weight), -1, width)  # [out, groups, g]
    count = grouped.shape[1]
    blocks = (
        hessian.reshape(count, width, count, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    )  # [groups, g, g]
    largest = grouped.abs().amax(dim=2, keepdim=True)
    best = torch.full(grouped.shape[:2], torch.inf, device=weight.device)
    low, high = grouped.amin(dim=2), grouped.amax(dim=2)
    for share in _SHRINKS:
        clipped = grouped.clamp(-share * largest, share * largest)
        mine, top = clipped.amin(dim=2), clipped.amax(dim=2)
        scales, zeros = fit(mine, top, grid)
        codes = to_codes(grouped, scales[..., None], zeros[..., None], grid.levels)
        errors = (codes - zeros[..., None]).mul_(scales[..., None]).sub_(grouped)
        losses = torch.einsum("rgi,rgi->rg", torch.einsum("rgi,gij->rgj", errors, blocks), errors)
        better = losses < best
        best = torch.where(better, losses, best)
        low, high = torch.where(better, mine, low), torch.where(better, top, high)
    return shifted(low, exponent), shifted(high, exponent)
