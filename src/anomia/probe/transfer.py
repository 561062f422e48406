"""Transfers between host and accelerator with as few waits as possible.

A GPU runs asynchronously. Reading a value back waits until all earlier work is done, and so does a plain
`torch.tensor(..., device="cuda")`, because its source is pageable memory. So values are sent from pinned memory,
and all choices of a step are read back in one transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_device(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of `values` on a device, without waiting for it to arrive."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> list[Any]:
    """The values of several tensors as nested lists, in one transfer and thus with one wait.

    Integers must be smaller than 2**53.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.tolist() for tensor in tensors]
    return unpacked(packed(tensors).cpu(), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates tensors of one device to a flat float64 tensor, which holds float32 and token ids exactly."""
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def unpacked(flat: Tensor, tensors: Sequence[Tensor]) -> list[Any]:
    """Undoes `packed`: the values of `tensors`, of which only shapes and dtypes are read."""
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [
        piece.to(tensor.dtype).view(tensor.shape).tolist()
        for piece, tensor in zip(pieces, tensors, strict=True)
    ]
