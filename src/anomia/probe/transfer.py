"""Between the program and the accelerator: as few waits as possible.

A GPU works behind the program that feeds it. Each value that the program reads back lets it wait until all
work before is done, and a plain `torch.tensor(..., device="cuda")` waits as well, because its source is
ordinary memory. So values go out from pinned memory, and what a step has chosen comes back at once.
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
    """The values of several tensors as nested lists, in one transfer and so with one wait.

    Integers must be smaller than 2**53.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.tolist() for tensor in tensors]
    return unpacked(packed(tensors).cpu(), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one device as one of float64, which holds float32 and token ids exactly."""
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def unpacked(flat: Tensor, tensors: Sequence[Tensor]) -> list[Any]:
    """The values of `tensors`, given what `packed` made of them; only shapes and types of them are read."""
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [
        piece.to(tensor.dtype).view(tensor.shape).tolist()
        for piece, tensor in zip(pieces, tensors, strict=True)
    ]
