"""Which dtype a CPU should run a model in: float32 where it fits and costs little, else what is stored.

In half precision rounding alone flips answers, and what flips looks like damage by compression.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]  # it brings no types
import torch

# Float32 may cost so many times what the stored dtype costs.
MOST_TIMES = 2.0
# Of the memory that is free, so much may be taken by the weights.
_WEIGHTS_SHARE = 0.4
_PREFILL_ROWS, _DECODE_ROWS = 512, 16
_REPEATS = 5
# A decode step reads every weight; a prefill pass is worth so many of them (32 new tokens, an item's several branches).
_DECODE_STEPS = 32
_HALF = (torch.float16, torch.bfloat16)


class Precision(NamedTuple):
    """The dtype to run in, and why in one sentence; `times`: what float32 would cost, None where that wasn't tried."""

    dtype: torch.dtype
    why: str
    times: float | None = None


def precision_for(model: Any) -> Precision | None:
    """What a model on a CPU should run in; None where there is nothing to decide.

    There isn't for models on other devices, in float32 already, or with weights that are packed.
    """
    if not _is_half_on_cpu(model):
        return None
    stored = model.dtype
    name = str(stored).removeprefix("torch.")
    if not fits_float32(model):
        return Precision(
            stored, f"{name}: float32 would need {_float32_bytes(model) / 1e9:.1f} GB, too much here"
        )
    times = cost_of_float32(model, stored)
    if times < MOST_TIMES:
        return Precision(torch.float32, f"float32, which costs about {times:.1f} times {name} here", times)
    return Precision(stored, f"{name}: float32 would take about {times:.1f} times as long here", times)


def fits_float32(model: Any) -> bool:
    """Whether a model is in half precision on a CPU, and its weights in float32 take a small part of free memory."""
    return (
        _is_half_on_cpu(model) and _float32_bytes(model) <= _WEIGHTS_SHARE * psutil.virtual_memory().available
    )


def _is_half_on_cpu(model: Any) -> bool:
    packed = getattr(model.config, "quantization_config", None) is not None
    return not packed and model.device.type == "cpu" and model.dtype in _HALF


def _float32_bytes(model: Any) -> int:
    return 4 * sum(int(parameter.numel()) for parameter in model.parameters())


def cost_of_float32(model: Any, stored: torch.dtype) -> float:
    """How many times as long float32 takes, by products in the shape of the model's largest matrix.

    The best of a few repeats, so that other work on the machine decides little.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    # The embedding is read, not multiplied; without a block's matrix there is nothing else.
    inner = sorted(matrices, key=torch.numel)[:-1] or matrices
    rows, columns = max((tuple(matrix.shape) for matrix in inner), key=lambda shape: shape[0] * shape[1])
    seconds = {
        dtype: _best(rows, columns, _PREFILL_ROWS, dtype)
        + _DECODE_STEPS * _best(rows, columns, _DECODE_ROWS, dtype)
        for dtype in (stored, torch.float32)
    }
    return seconds[torch.float32] / seconds[stored]


def _best(rows: int, columns: int, tokens: int, dtype: torch.dtype) -> float:
    # Several matrices in turn, as a model has them: one alone would stay in the cache.
    weights = [torch.randn(rows, columns, dtype=dtype) for _ in range(8)]
    inputs = torch.randn(tokens, columns, dtype=dtype)
    found = []
    with torch.inference_mode():
        for _ in range(_REPEATS):
            began = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(inputs, weight)
            found.append(time.perf_counter() - began)
    return min(found)
