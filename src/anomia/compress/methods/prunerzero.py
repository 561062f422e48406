"""Pruner-Zero's published symbolic metric (Dong et al. 2024): |W·W|·minmax(G).

G is the L2 norm over calibration windows of the gradient of the dense model's language-modelling loss.
"""

from __future__ import annotations

import torch

from anomia.compress.methods.by_mask import by_gradient
from anomia.compress.methods.gradients import gradient_norms
from anomia.compress.methods.masks import Chosen, cut, lifted
from anomia.compress.steps import Target

CHOICES = (
    "the tree mul(abs(mul(W, W)), mms(G)) of the authors' repository, compared within each output row",
    "G is the L2 norm over windows of the loss gradient on the dense model, one window at a time",
    "the gradients use this run's calibration windows, where the authors use WikiText-2",
)


def prunerzero_cut(weight: torch.Tensor, gradient: torch.Tensor, target: Target) -> Chosen:
    """Choose the lowest scores of every output row. weight, gradient: [out, in].

    Source: Dong et al. (2024), Equation 3 and the best tree of their repository; minmax runs over the matrix.
    """
    low, high = gradient.amin(), gradient.amax()
    scaled = (gradient - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    return cut(lifted(weight.abs().float()).square() * scaled, target, weight=weight)


METHOD = by_gradient(prunerzero_cut, gradient_norms, CHOICES)
