"""M-Wanda (Choenni and Titov 2025, arXiv 2505.21171): a reconstruction from the published description.

The abstract names the parts: language-aware activation statistics in the criterion, an activation-probability term,
and layerwise sparsity from cross-lingual correlation. Their combination here is our choice.
"""

from __future__ import annotations

import torch

from anomia.compress.methods.by_mask import by_mask
from anomia.compress.methods.masks import Chosen, cut, lifted
from anomia.compress.statistics import InputStatistic, StatisticNeeds
from anomia.compress.steps import Target

CHOICES = (
    "criterion |W|·(mean + standard deviation over languages of each input's root mean square)"
    "·(1 + largest probability over languages that the input is above zero)",
    "every language counts the same, whatever its number of tokens",
    "blocks whose inputs correlate more between languages stay denser, in a band of ±0.08 as in OWL",
    "an N:M pattern fixes the sparsity of every block; then only the criterion applies",
)


def mwanda_cut(weight: torch.Tensor, statistic: InputStatistic, target: Target) -> Chosen:
    """Choose the lowest scores of every output row, as in Wanda. weight: [out, in]."""
    return cut(lifted(weight.abs().float()) * lifted(language_factors(statistic)), target, weight=weight)


def language_factors(statistic: InputStatistic) -> torch.Tensor:
    """Return the factor of each input that replaces Wanda's ‖X‖₂, [in] float32."""
    spoken = [mine for mine in statistic.languages.values() if mine.tokens]
    levels = torch.stack([(mine.sum_squares / mine.tokens).sqrt() for mine in spoken])  # [L, in]
    active = torch.stack([mine.active / mine.tokens for mine in spoken])  # [L, in]
    return (levels.mean(dim=0) + levels.std(dim=0, correction=0)) * (1 + active.amax(dim=0))


METHOD = by_mask(
    StatisticNeeds(languages=True),
    lambda matrix, seen, target: mwanda_cut(matrix.weight, seen, target),
    CHOICES,
)
