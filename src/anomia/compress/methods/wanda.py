"""Wanda: score weights by |W|·‖X‖ (Sun et al. 2024)."""

from __future__ import annotations

import torch

from anomia.compress.methods.by_mask import by_mask
from anomia.compress.methods.masks import row_mask
from anomia.compress.statistics import Needs
from anomia.compress.steps import Target


def wanda_scores(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Return |W|·‖X‖₂, [out, in] float32. weight: [out, in]; norms: [in], the L2 norm of each input over all tokens.

    Source: Sun et al. (2024), Equation 1.
    """
    return weight.abs().float() * norms


def wanda_mask(weight: torch.Tensor, norms: torch.Tensor, target: Target) -> torch.Tensor:
    """Mask the lowest `int(in × sparsity)` scores of every output row, or of every M inputs; ties to the lowest index.

    weight: [out, in]; norms: [in]. Returns [out, in] bool, True where the weight is pruned.
    Source: Sun et al. (2024), Section 3 and Algorithm 1 (stable sort, one comparison group per row).
    """
    return row_mask(wanda_scores(weight, norms), target)


METHOD = by_mask(Needs(), lambda matrix, seen, target: wanda_mask(matrix.weight, seen.norms, target))
