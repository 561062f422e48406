"""compressed-tensors' `pack-quantized` format, which transformers and vLLM load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from anomia.compress.methods.grid import Grid, Quantized, grid_of
from anomia.compress.packing.base import Layers, PackedFormat
from anomia.compress.steps import Quantize
from anomia.models.words import pack, unpack

_FORMAT = "pack-quantized"


def _tensors_of(quantized: Quantized) -> dict[str, torch.Tensor]:
    grid = quantized.grid
    found = {
        "weight_packed": pack(quantized.codes, grid.bits),
        "weight_scale": quantized.scales,
        "weight_shape": torch.tensor(quantized.codes.shape),
    }
    if not grid.symmetric:
        # Zero points are packed along the rows: [⌈out·bits / 32⌉, groups].
        found["weight_zero_point"] = pack(quantized.zeros.T, grid.bits).T.contiguous()
    return found


def _read(tensors: Mapping[str, torch.Tensor], grid: Grid) -> Quantized:
    rows, columns = tensors["weight_shape"].tolist()
    scales = tensors["weight_scale"]
    zeros = torch.full(scales.shape, grid.middle, dtype=torch.uint8, device=scales.device)
    if not grid.symmetric:
        zeros = unpack(tensors["weight_zero_point"].T, grid.bits, rows).T
    return Quantized(unpack(tensors["weight_packed"], grid.bits, columns), scales, zeros, grid)


def _settings(step: Quantize, layers: Layers) -> dict[str, Any]:
    grid = grid_of(step, torch.float32)
    weights = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "channel" if grid.group is None else "group",
        "group_size": grid.group,
        "dynamic": False,
        "actorder": None,
    }
    scheme = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": _FORMAT,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": _FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": list(layers.dense),
        "kv_cache_scheme": None,
        # Read by transformers, not by vLLM. Without it, transformers would unpack only when the whole model is called,
        # not when the decoder alone is; and it can't keep zero points packed (vllm-project/llm-compressor#1618).
        "dequantize": True,
    }


def _merged(grid: Grid) -> str:
    """Why merged matrices can't be stored; empty without zero points.

    transformers 5.23 reads the codes, scales and shapes of matrices that it merges, but not their zero points.
    """
    return "" if grid.symmetric else "and drops their zero points; symmetric=yes has none"


def _why_not(shape: tuple[int, int], grid: Grid) -> str:
    """Any shape can be stored."""
    return ""


# For weights that it splits, transformers 5.23 fails to set up its unpacking.
FORMAT = PackedFormat("weight_packed", _tensors_of, _read, _why_not, _settings, _merged, splits=False)
