"""Round the weights of the decoder blocks to integers with torchao.

Weights are quantized and dequantized again: the model computes the same as a weight-only quantized model, on any
device, but is neither smaller nor faster than the dense one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.matrices import all_matrices
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.steps import Quantize
from anomia.errors import MissingExtraError, RefusedError

DEQUANTIZED = "weights hold the dequantized values: size and speed are the dense model's"

RoundTrip = Callable[[torch.Tensor], torch.Tensor]


def _round_integers(work: BlockWork) -> list[MatrixReport]:
    """Round every matrix of a block to the nearest integer, in place.

    Integers are symmetric, so a zero stays zero. By default int8 has one scale per row, and int4, int3 and int2 have
    one per group of 128 inputs.

    Raises `MissingExtraError` if torchao is not installed.
    """
    assert isinstance(work.step, Quantize)
    return round_block(work, _integers(work.step))


def round_block(work: BlockWork, round_trip: RoundTrip) -> list[MatrixReport]:
    """Round every matrix of a block, [out, in], to values of the same shape and type, in place."""
    reports = []
    for group in work.groups:
        for matrix in group.matrices:
            matrix.weight.copy_(round_trip(matrix.weight.contiguous()))
            reports.append(report_matrix(matrix))
    return reports


def check_groups(decoder: DecoderBlocks, step: Quantize) -> None:
    """Refuse weights that can't be quantized, and groups that don't divide the inputs of every matrix, [out, in]."""
    group = group_of(step)
    columns = {
        f"{decoder.path(index)}.{matrix.name}": matrix.weight.shape[1]
        for index, block in enumerate(decoder.modules)
        for matrix in all_matrices(block, decoder.path(index))
    }
    if group is None:
        return
    for name, count in columns.items():
        if count % group:
            fitting = math.gcd(group, *columns.values())
            fits = str(step.with_option("group", fitting))
            raise RefusedError(
                f"{name} has {count} inputs, which groups of {group} can't divide; {fits} fits every matrix of this "
                f"model, and --dense keeps single ones as they are"
            )


def group_of(step: Quantize) -> int | None:
    """Return the group size, in inputs per scale; None for a whole row or if bitsandbytes decides."""
    group: int | None = step.option("group")
    return group


def _integers(step: Quantize) -> RoundTrip:
    """Round a weight [out, in] to integers with torchao and back: [out, in], with a scale per row or per group."""
    torchao = require("torchao.quantization", "torchao")
    group = group_of(step)
    granularity = torchao.PerAxis(0) if group is None else torchao.PerGroup(group)
    bits = getattr(torch, step.method)
    config = torchao.IntxWeightOnlyConfig(weight_dtype=bits, granularity=granularity)

    def round_trip(weight: torch.Tensor) -> torch.Tensor:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        # Small weights need scales that float16 can't tell apart.
        values = weight.float() if weight.dtype == torch.float16 else weight
        layer.weight = nn.Parameter(values, requires_grad=False)
        torchao.quantize_(layer, config)
        quantized: Any = layer.weight
        return torch.as_tensor(quantized.dequantize()).to(weight.dtype)

    return round_trip


def without_cuda(method: str, weight: torch.Tensor, error: Exception) -> str:
    """Say that bitsandbytes has no code for a weight's device."""
    return (
        f"{method}: the installed bitsandbytes can't work on {weight.device} ({error}); run it with --device cuda,"
        " or use int8 or int4"
    )


def require(module: str, package: str) -> Any:
    """Import a module of an optional package. Raises `MissingExtraError`."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(package, "quant") from None


METHOD = Method(None, _round_integers, prune_unreached)
