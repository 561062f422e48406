"""Diagonal Fisher information: prune the weights whose loss changes the model's own answers least.

The second-order score of Optimal Brain Damage (LeCun et al. 1990), w² · h, with the diagonal of the Fisher information
in place of the Hessian (Theis et al. 2018): the squared gradient of log p(answer), summed over calibration windows.
Windows without an answer count with all their tokens. Scores are compared within each output row, as in Wanda.
"""

from __future__ import annotations

from functools import partial

import torch

from anomia.compress.methods.by_mask import by_gradient
from anomia.compress.methods.gradients import gradient_norms
from anomia.compress.methods.masks import Chosen, cut, lifted
from anomia.compress.steps import Target


def fisher_cut(weight: torch.Tensor, gradient: torch.Tensor, target: Target) -> Chosen:
    """Choose the lowest |w| · G of every output row. weight, gradient: [out, in].

    G² is the sum of squared gradients.

    The square root orders weights as the score does and stays in range.
    """
    return cut(lifted(weight.abs().float()) * lifted(gradient), target, weight=weight)


METHOD = by_gradient(fisher_cut, partial(gradient_norms, of_answers=True))
