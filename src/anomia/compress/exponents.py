"""Shift matrices that are far from one by a power of two, which is exact, so that their squares stay in range."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

# Squares of values within 2^±30, times a Hessian within 2^±40, are far from the borders of float32 (2^-126, 2^128).
_FAR = 30
_FAR_HESSIAN = 40


def far_exponent(weights: Sequence[torch.Tensor]) -> int:
    """Return e for which the largest |w|·2^-e of all tensors is in [0.5, 1), or 0 if it is within 2^±30 as it is.

    weights: of any shape.
    """
    top = max((float(w.amax().abs().maximum(w.amin().abs())) for w in weights if w.numel()), default=0.0)
    exponent = math.frexp(top)[1] if math.isfinite(top) else 0
    return exponent if abs(exponent) > _FAR else 0


def shifted(values: torch.Tensor, exponent: int) -> torch.Tensor:
    """Return values·2^exponent; the values themselves if the exponent is 0. values: float32, of any shape."""
    if not exponent:
        return values
    # In two steps, since the power itself may be out of range.
    half = exponent // 2
    return values * 2.0**half * 2.0 ** (exponent - half)


def near_one(hessian: torch.Tensor) -> torch.Tensor:
    """Return a Hessian whose largest diagonal entry is near 1, [in, in].

    hessian: [in, in] float32. It is multiplied by a power of four if the entry is far from 1, which keeps every bit of
    its Cholesky factor too.
    """
    exponent = math.frexp(float(hessian.diagonal().amax()))[1] if len(hessian) else 0
    return shifted(hessian, -(exponent // 2 * 2)) if abs(exponent) > _FAR_HESSIAN else hessian
