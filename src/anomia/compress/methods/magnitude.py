"""Magnitude pruning: the smallest weights of a matrix."""

from __future__ import annotations

import torch

from anomia.compress.methods.masks import lowest_mask, pattern_mask
from anomia.compress.steps import Pattern, Target


def magnitude_mask(weight: torch.Tensor, target: Target) -> torch.Tensor:
    """The lowest `int(out × in × sparsity)` of |W| in the whole matrix, ties to the lowest row-major index.

    weight: [out, in]. Returns [out, in] bool, True where the weight goes. A pattern goes by rows.
    Source: Han et al. (2015); layer-wise and uniform as in Sun et al. (2024), Section 4.
    """
    scores = weight.abs().float()
    if isinstance(target, Pattern):
        return pattern_mask(scores, target)
    return lowest_mask(scores.reshape(1, -1), int(scores.numel() * target)).reshape(scores.shape)
