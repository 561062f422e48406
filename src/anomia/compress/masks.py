"""Which weights go: exactly k of the lowest scores, ties to the lowest index."""

from __future__ import annotations

import numpy as np
import torch

from anomia.compress.spec import Pattern, Target


def lowest_mask(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` lowest scores of each row, ties to the lowest index: what a stable sort puts first.

    scores: [R, C] float32, no NaN. Returns [R, C] bool. A k-th value does; nothing is sorted.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if count >= scores.shape[1]:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = kth_lowest(scores, count)  # [R, 1]
    below = scores < threshold
    tied = scores == threshold
    missing = count - below.sum(dim=1, keepdim=True)  # [R, 1]
    if bool((tied.sum(dim=1, keepdim=True) == missing).all()):
        return below | tied
    return below | (tied & (tied.cumsum(dim=1) <= missing))


def kth_lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The `count`-th lowest score of each row, counted from one. scores: [R, C]; returns [R, 1]."""
    if scores.device.type == "cpu":
        # NumPy's vectorized selection is several times faster than `torch.kthvalue` on the CPU.
        part = np.partition(scores.numpy(), count - 1, axis=1)[:, count - 1 : count]
        return torch.from_numpy(np.ascontiguousarray(part))
    return torch.kthvalue(scores, count, dim=1, keepdim=True).values


def pattern_mask(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The M − N lowest scores of every M consecutive columns, ties to the lowest index. scores: [R, C]."""
    rows, columns = scores.shape
    grouped = scores.reshape(rows * columns // pattern.group, pattern.group)
    return lowest_mask(grouped, pattern.group - pattern.keep).reshape(rows, columns)


def row_mask(scores: torch.Tensor, target: Target) -> torch.Tensor:
    """The lowest `int(in × sparsity)` scores of each row, or a pattern. scores: [out, in]."""
    if isinstance(target, Pattern):
        return pattern_mask(scores, target)
    return lowest_mask(scores, int(scores.shape[1] * target))
