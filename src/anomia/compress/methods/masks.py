"""Masks of the weights to prune: exactly the k lowest scores; on ties the lowest index is pruned."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from anomia.compress.steps import Pattern, Target

# Two factors of at least this size have a product whose lower 2^-46 is still a normal float32.
_SMALL = 2.0**-40


class Chosen(NamedTuple):
    """mask: True where the weight is pruned. by_order: pruned weights with the same score, above zero, as a kept one.

    at_zero: pruned weights that aren't zero but have the score zero, as a kept one of their row or group does too.
    """

    mask: torch.Tensor
    by_order: int = 0
    at_zero: int = 0


def lifted(values: torch.Tensor, *, dim: int | None = None) -> torch.Tensor:
    """Return a factor of scores, scaled by a power of two if its values are so small that products would underflow.

    The scores keep their order, and their ratios to the last bit. values: not negative, float32, of any shape.
    dim: along which scores are compared with each other; each slice gets its own scale. None: all of them.
    """
    if not values.numel():
        return values
    top = values.amax() if dim is None else values.amax(dim=dim, keepdim=True)
    small = (top > 0) & (top < _SMALL)
    if not bool(small.any()):
        return values
    exponents = torch.where(small, torch.frexp(top.double()).exponent, 0)
    return (values.double() * torch.exp2(-exponents.double())).float()


def cut(
    scores: torch.Tensor, target: Target, *, whole: bool = False, weight: torch.Tensor | None = None
) -> Chosen:
    """Choose the lowest scores of each row, or of the whole matrix, or of every M inputs. scores, mask: [out, in].

    weight: [out, in]; without it, scores of zero count as those of weights that are zero.
    """
    if isinstance(target, Pattern):
        shape, count = (-1, target.group), target.group - target.keep
    elif whole:
        shape, count = (1, -1), int(scores.numel() * target)
    else:
        shape, count = (len(scores), -1), int(scores.shape[1] * target)
    compared = None if weight is None else weight.reshape(shape)
    found = lowest(scores.reshape(shape), count, compared)
    return found._replace(mask=found.mask.reshape(scores.shape))


def lowest_mask(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mask of `lowest`."""
    return lowest(scores, count).mask


def lowest(scores: torch.Tensor, count: int, weight: torch.Tensor | None = None) -> Chosen:
    """Choose the `count` lowest scores of each row, ties to the lowest index, as a stable sort would.

    scores: [R, C] float32, without NaN. weight: [R, C], as for `cut`. mask: [R, C] bool. Only the k-th value is
    selected; nothing is sorted.
    """
    if count <= 0:
        return Chosen(torch.zeros_like(scores, dtype=torch.bool))
    if count >= scores.shape[1]:
        return Chosen(torch.ones_like(scores, dtype=torch.bool))
    threshold, tied = _threshold(scores, count)
    mask = _at_most(scores, threshold)
    by_order = at_zero = 0
    if bool(tied.any()):
        # Only these rows have more scores at the threshold than can be pruned.
        rows = tied.nonzero().squeeze(1)
        some, limit = scores[rows], threshold[rows]
        below, equal = some < limit, some == limit
        missing = count - below.sum(dim=1, keepdim=True)
        mask[rows] = below | (equal & (equal.cumsum(dim=1) <= missing))
        by_order = int(missing[limit > 0].sum())
        if weight is not None and bool((limit == 0).any()):
            dead = equal & (limit == 0) & (weight[rows] != 0)
            gone = mask[rows]
            decided = (dead & gone).sum(dim=1)
            at_zero = int(decided[(dead & ~gone).any(dim=1)].sum())
    return Chosen(mask, by_order, at_zero)


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
