"""Allocation of sparsity to blocks: the same for all, or more for blocks that matter less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from anomia.compress.catalogue import CATALOGUE
from anomia.compress.methods.wanda import wanda_scores
from anomia.compress.statistics import SharedInput, StatisticNeeds
from anomia.compress.steps import Prune
from anomia.errors import RefusedError

OUTLIER_FACTOR = 5.0
SPREAD = 0.08
# Scores with a smaller mean underflow in float32.
_PRECISE = 2.0**-80


class Allocation(NamedTuple):
    """needs: the statistics that it reads. importance: of a dense block; more important blocks stay denser."""

    needs: StatisticNeeds
    importance: Callable[[Sequence[SharedInput]], float]


def allocation_of(step: Prune) -> Allocation | None:
    """Return how a step allocates its sparsity to the blocks, `None` for uniform."""
    if CATALOGUE[step.method].allocates and isinstance(step.target, float):
        return Allocation(StatisticNeeds(languages=True), cross_lingual_correlation)
    if step.allocation == "owl":
        return Allocation(StatisticNeeds(), outlier_ratio)
    return None


def spread_sparsity(
    importance: Sequence[float],
    sparsity: float,
    *,
    spread: float = SPREAD,
    weights: Sequence[int] | None = None,
) -> list[float]:
    """Return the sparsity of each block, [blocks]: densities are linear in importance, in a band of width 2·spread.

    The mean density over all weights is 1 − sparsity. If all blocks are equally important, they get the same sparsity.
    importance: [blocks]. weights: number of weights of each block, [blocks]; equal if not given.
    Source: OWL, Yin et al. (2024), Section 4.2 and their code (λ = 0.08).
    Raises `CompressionError` if the band leaves (0, 1).
    """
    values = np.asarray(importance, dtype=np.float64)
    # A block that no text reaches gets the mean importance.
    values = np.where(np.isnan(values), np.nanmean(values), values)
    width = values.max() - values.min()
    densities = np.zeros_like(values) if width == 0 else (values - values.min()) / width * 2 * spread
    sparsities = sparsity - (densities - np.average(densities, weights=weights))
    if sparsities.min() <= 0 or sparsities.max() >= 1:
        raise RefusedError(
            f"a sparsity of {sparsity} spread over the blocks reaches from {sparsities.min():.3f} to"
            f" {sparsities.max():.3f}; choose one further from 0 and 1, or allocation=uniform"
        )
    return [float(value) for value in sparsities]


def outlier_ratio(groups: Sequence[SharedInput], dtype: torch.dtype = torch.float32) -> float:
    """Return the fraction of a block's weights whose |W|·‖X‖ is more than 5 times the block's mean.

    groups: the block's matrices, [out, in] each, with the norms of their inputs, [in]. dtype: of the scores.
    NaN for a block that no text reached. Source: OWL, Yin et al. (2024), Equation 1, with M = 5.
    """
    scores = [
        wanda_scores(matrix.weight, group.statistic.norms.to(dtype)).reshape(-1)
        for group in groups
        if group.statistic is not None
        for matrix in group.matrices
    ]
    count = sum(part.numel() for part in scores)
    if count == 0:
        return float("nan")
    mean = sum(float(part.sum(dtype=torch.float64)) for part in scores) / count
    if mean < _PRECISE and dtype == torch.float32:
        return outlier_ratio(groups, torch.float64)
    return sum(int((part > OUTLIER_FACTOR * mean).sum()) for part in scores) / count


def cross_lingual_correlation(groups: Sequence[SharedInput]) -> float:
    """Return the mean Pearson correlation of input activations (RMS, [in]) over groups and pairs of languages.

    1 if there is a single language. A reconstruction of M-Wanda: see `mwanda.CHOICES`.
    """
    values = []
    for group in groups:
        if group.statistic is None:
            continue
        levels = [
            (mine.sum_squares / max(mine.tokens, 1)).sqrt().cpu().numpy()
            for mine in group.statistic.languages.values()
        ]
        for first in range(len(levels)):
            for second in range(first):
                if levels[first].std() > 0 and levels[second].std() > 0:
                    values.append(float(np.corrcoef(levels[first], levels[second])[0, 1]))
    return float(np.mean(values)) if values else 1.0
