"""Quantize the weights of the decoder blocks with torchao and bitsandbytes.

Weights are quantized and dequantized again: the model computes the same as a weight-only quantized model, on any
device, but is neither smaller nor faster than the dense one. `llm.int8` also rounds activations, so its layers are
replaced by those of bitsandbytes.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.matrices import all_matrices, find_matrices, layer_of
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.magnitude import prune_unreached
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.steps import Quantize
from anomia.errors import CompressionError, MissingExtraError

NF4_BLOCK = 64
OUTLIER_THRESHOLD = 6.0
DEQUANTIZED = "weights hold the dequantized values: size and speed are the dense model's"

RoundTrip = Callable[[torch.Tensor], torch.Tensor]


def round_block(work: BlockWork) -> list[MatrixReport]:
    """Round every matrix of a block to the nearest code, in place.

    Integers are symmetric, so a zero stays zero. By default int8 has one scale per row, and int4, int3 and int2 have
    one per group of 128 inputs. nf4 has one scale per 64 weights.

    Raises `MissingExtraError` if the package is not installed.
    """
    assert isinstance(work.step, Quantize)
    round_trip = _nf4() if work.step.method == "nf4" else _integers(work.step)
    reports = []
    for group in work.groups:
        for matrix in group.matrices:
            matrix.weight.copy_(round_trip(matrix.weight.contiguous()))
            reports.append(report_matrix(matrix))
    return reports


def check_groups(decoder: DecoderBlocks, step: Quantize) -> None:
    """Refuse a group size that doesn't divide the inputs of every matrix."""
    group = group_of(step)
    if group is None:
        return
    columns = {
        f"{decoder.path(index)}.{matrix.name}": matrix.weight.shape[1]
        for index, block in enumerate(decoder.modules)
        for matrix in all_matrices(block, decoder.path(index))
    }
    for name, count in columns.items():
        if count % group:
            fitting = math.gcd(group, *columns.values())
            fits = str(step.with_option("group", fitting))
            raise CompressionError(
                f"{name} has {count} inputs, which groups of {group} can't divide;"
                f" {fits} fits every matrix of this model"
            )


def group_of(step: Quantize) -> int | None:
    """Return the group size, in inputs per scale; None for a whole row or if bitsandbytes decides."""
    group: int | None = step.option("group")
    return group


def _integers(step: Quantize) -> RoundTrip:
    """Round a weight [out, in] to integers with torchao and back: [out, in], with a scale per row or per group."""
    torchao = _require("torchao.quantization", "torchao")
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


def _nf4() -> RoundTrip:
    """Round a weight [out, in] to NF4 with bitsandbytes and back: [out, in]."""
    functional = _require("bitsandbytes.functional", "bitsandbytes")

    def round_trip(weight: torch.Tensor) -> torch.Tensor:
        try:
            packed, scales = functional.quantize_4bit(weight, quant_type="nf4", blocksize=NF4_BLOCK)
            values: torch.Tensor = functional.dequantize_4bit(packed, scales)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise CompressionError(_without_cuda("nf4", weight, error)) from None
        return values.to(weight.dtype)

    return round_trip


@torch.no_grad()
def replace_linears(
    decoder: DecoderBlocks, progress: Callable[[int, int], None] | None
) -> list[MatrixReport]:
    """Replace all linear layers of the blocks by bitsandbytes' 8-bit layers.

    Raises `CompressionError`, before any work, if a matrix doesn't belong to a linear layer.
    """
    layers = _require("bitsandbytes.nn", "bitsandbytes")
    for index, block in enumerate(decoder.modules):
        where = decoder.path(index)
        others = [
            m.name for m in all_matrices(block, where) if not isinstance(layer_of(block, m.name), nn.Linear)
        ]
        if others:
            raise CompressionError(
                f"llm.int8 replaces linear layers, and {where}.{others[0]} is not one; use int8"
            )
    reports: list[MatrixReport] = []
    for index, block in enumerate(decoder.modules):
        where = decoder.path(index)
        for matrix in find_matrices(block, where=where):
            reports.append(report_matrix(matrix)._replace(name=f"{where}.{matrix.name}"))
            dense: Any = block.get_submodule(matrix.name)
            layer = layers.Linear8bitLt(
                dense.in_features,
                dense.out_features,
                bias=dense.bias is not None,
                has_fp16_weights=False,
                threshold=OUTLIER_THRESHOLD,
            )
            layer.load_state_dict(dense.state_dict())
            try:
                layer = layer.to(matrix.weight.device).requires_grad_(False)
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                raise CompressionError(_without_cuda("llm.int8", matrix.weight, error)) from None
            block.set_submodule(matrix.name, layer)
        if progress is not None:
            progress(index + 1, len(decoder.modules))
    return reports


def _without_cuda(method: str, weight: torch.Tensor, error: Exception) -> str:
    return (
        f"{method}: the installed bitsandbytes can't work on {weight.device} ({error}); run it with --device cuda,"
        " or use int8 or int4"
    )


def _require(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(package, "quant") from None


METHOD = Method(None, round_block, prune_unreached)
