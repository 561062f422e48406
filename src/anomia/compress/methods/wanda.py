"""Wanda: score weights by |W|·‖X‖ (Sun et al. 2024)."""

from __future__ import annotations

import torch

from anomia.compress.methods.by_mask import by_mask
from anomia.compress.methods.masks import Chosen, cut, lifted
from anomia.compress.statistics import StatisticNeeds
from anomia.compress.steps import Target


def wanda_scores(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Return |W|·‖X‖₂, [out, in], in the type of the norms.

    weight: [out, in]; norms: [in], of each input over all tokens. Source: Sun et al. (2024), Equation 1.
    """
    return weight.abs().to(norms.dtype) * norms


def wanda_cut(weight: torch.Tensor, norms: torch.Tensor, target: Target) -> Chosen:
    """Choose the lowest `int(in × sparsity)` scores of every output row, or of every M inputs.

    Of equal scores, the lowest index is chosen. weight: [out, in]; norms: [in].
    Source: Sun et al. (2024), Section 3 and Algorithm 1 (stable sort, one comparison group per row).
    """
    return cut(lifted(weight.abs().float()) * lifted(norms), target, weight=weight)


METHOD = by_mask(StatisticNeeds(), lambda matrix, seen, target: wanda_cut(matrix.weight, seen.norms, target))
