"""Masks of the weights to prune: exactly the k lowest scores; on ties the lowest index is pruned."""

from __future__ import annotations

import numpy as np
import torch

from anomia.compress.steps import Pattern, Target


def lowest_mask(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Mask the `count` lowest scores of each row, ties to the lowest index, as a stable sort would.

    scores: [R, C] float32, without NaN. Returns [R, C] bool. Only the k-th value is selected; nothing is sorted.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if count >= scores.shape[1]:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold, tied = _threshold(scores, count)
    mask = _at_most(scores, threshold)
    if bool(tied.any()):
        # Only these rows have more scores at the threshold than can be pruned.
        rows = tied.nonzero().squeeze(1)
        some, limit = scores[rows], threshold[rows]
        below, equal = some < limit, some == limit
        missing = count - below.sum(dim=1, keepdim=True)
        mask[rows] = below | (equal & (equal.cumsum(dim=1) <= missing))
    return mask


def _threshold(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count`-th lowest score of each row, [R, 1], and whether the next one is equal, [R] bool."""
    if scores.device.type == "cpu":
        part = torch.from_numpy(np.partition(scores.numpy(), count - 1, axis=1))
        threshold = part[:, count - 1 : count].contiguous()
        return threshold, part[:, count:].amin(dim=1) == threshold[:, 0]
    threshold = kth_lowest(scores, count)
    return threshold, (scores <= threshold).sum(dim=1) > count


def _at_most(scores: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    if scores.device.type == "cpu":
        # PyTorch needs more than twice as long to compare rows with one number each.
        return torch.from_numpy(scores.numpy() <= threshold.numpy())
    return scores <= threshold


def kth_lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the `count`-th lowest score of each row, counted from one. scores: [R, C]; returns [R, 1]."""
    if scores.device.type == "cpu":
        # NumPy's vectorized selection is several times faster than `torch.kthvalue` on the CPU.
        part = np.partition(scores.numpy(), count - 1, axis=1)[:, count - 1 : count]
        return torch.from_numpy(np.ascontiguousarray(part))
    return torch.kthvalue(scores, count, dim=1, keepdim=True).values


def pattern_mask(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Mask the M − N lowest of every M consecutive scores, ties to the lowest index. scores, result: [R, C]."""
    rows, columns = scores.shape
    grouped = scores.reshape(rows * columns // pattern.group, pattern.group)
    return lowest_mask(grouped, pattern.group - pattern.keep).reshape(rows, columns)


def row_mask(scores: torch.Tensor, target: Target) -> torch.Tensor:
    """Mask the lowest `int(in × sparsity)` scores of each row, or a pattern. scores, result: [out, in]."""
    if isinstance(target, Pattern):
        return pattern_mask(scores, target)
    return lowest_mask(scores, int(scores.shape[1] * target))
