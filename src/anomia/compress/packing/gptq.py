"""GPTQ's format, as AutoGPTQ introduced it and GPTQModel, transformers (through optimum) and vLLM read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from anomia._version import __version__
from anomia.compress.methods.grid import Grid, Quantized, grid_of
from anomia.compress.methods.sparsegpt import DAMPING
from anomia.compress.packing.base import Layers, PackedFormat
from anomia.compress.steps import Quantize
from anomia.models.words import WORD, pack, unpack


def _tensors_of(quantized: Quantized) -> dict[str, torch.Tensor]:
    """Return the codes packed along the inputs, the zero points, and the scales.

    Codes: [in·bits / 32, out]; zero points: [groups, out·bits / 32]; scales: [groups, out].

    `gptq`, the first version of the format, stores zero points minus 1, which can't express 0. `gptq_v2` stores them as
    they are. So symmetric grids are stored in the first version, which every program reads, and others in the second.
    """
    grid = quantized.grid
    columns = quantized.codes.shape[1]
    return {
        "qweight": pack(quantized.codes, grid.bits).T,
        "qzeros": pack(quantized.zeros.T - _less(grid), grid.bits),
        "scales": quantized.scales.T,
        "g_idx": torch.arange(columns, dtype=torch.int32) // grid.width(columns),
    }


def _read(tensors: Mapping[str, torch.Tensor], grid: Grid) -> Quantized:
    rows, columns = tensors["scales"].shape[1], len(tensors["g_idx"])
    codes = unpack(tensors["qweight"].T, grid.bits, columns)
    zeros = unpack(tensors["qzeros"], grid.bits, rows).T + _less(grid)
    return Quantized(codes, tensors["scales"].T, zeros, grid)


def _less(grid: Grid) -> int:
    """What is taken from zero points when they are stored."""
    return 1 if grid.symmetric else 0


def _why_not(shape: tuple[int, int], grid: Grid) -> str:
    """The format pads nothing."""
    rows, columns = shape
    if rows * grid.bits % WORD or columns * grid.bits % WORD:
        return f"its rows or columns of {grid.bits}-bit codes don't fill whole words of {WORD} bits"
    return ""


def _settings(step: Quantize, layers: Layers) -> dict[str, Any]:
    grid = grid_of(step, torch.float32)
    settings: dict[str, Any] = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if grid.symmetric else "gptq_v2",
        "bits": grid.bits,
        "group_size": -1 if grid.group is None else grid.group,
        "sym": grid.symmetric,
        # Groups are consecutive inputs whatever the order of quantization, so readers needn't permute anything.
        "desc_act": False,
        "static_groups": step.option("order") == "act",
        "true_sequential": False,
        "damp_percent": DAMPING,
        "lm_head": False,
        "pack_dtype": "int32",
        "block_name_to_quantize": layers.blocks,
        "meta": {"quantizer": [f"anomia:{__version__}"]},
    }
    inside = f"{layers.blocks}."
    if any(name.startswith(inside) for name in layers.dense):
        # Without this list, readers take every linear layer of the blocks for a packed one.
        settings["modules_in_block_to_quantize"] = [sorted({_below(n, inside) for n in layers.packed})]
    return settings


def _below(name: str, inside: str) -> str:
    """Return the name of a layer in its block: what follows the block's number."""
    parts = name.removeprefix(inside).split(".")
    number = next(index for index, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[number + 1 :])


def _merged(grid: Grid) -> str:
    return "which its loader of this format can't do"


FORMAT = PackedFormat(
    "qweight", _tensors_of, _read, _why_not, _settings, _merged, splits=True, copy="quantize_config.json"
)
