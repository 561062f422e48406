"""Packed checkpoints: integer weights in compressed-tensors' `pack-quantized` format for transformers and vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.catalogue import CATALOGUE, Kind
from anomia.compress.matrices import find_matrices
from anomia.compress.methods.grid import Grid, Quantized, grid_of
from anomia.compress.methods.zeros import count_zeros
from anomia.compress.options import SaveAs
from anomia.compress.report import MatrixReport
from anomia.compress.steps import Quantize
from anomia.compress.verify import PRUNE_AGAIN
from anomia.errors import CompressionError, StudyError, nearest

FORMAT = "pack-quantized"
_WORD = 32


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes [rows, n] uint8 without gaps into [rows, ⌈n·bits / 32⌉] int32.

    The first code is in the lowest bits; a code may span two words. compressed-tensors reads this layout for any number
    of bits since 0.19, and for 2, 4 and 8 bits before.
    """
    rows, count = codes.shape
    padded = torch.nn.functional.pad(codes.long(), (0, -count % _WORD))
    starts = torch.arange(padded.shape[1], device=codes.device) * bits
    shifted = padded << (starts % _WORD)  # up to 39 bits
    words = torch.zeros(rows, padded.shape[1] * bits // _WORD + 1, dtype=torch.int64, device=codes.device)
    index = (starts // _WORD).expand(rows, -1)
    words.scatter_add_(1, index, shifted & 0xFFFFFFFF)
    words.scatter_add_(1, index + 1, shifted >> _WORD)
    words = words[:, : -(-count * bits // _WORD)]
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Undo `pack`: [rows, ⌈count·bits / 32⌉] int32 to [rows, count] uint8."""
    long = torch.nn.functional.pad(words.long() & 0xFFFFFFFF, (0, 1))
    starts = torch.arange(count, device=words.device) * bits
    index, offset = starts // _WORD, starts % _WORD
    pairs = long[:, index] | (long[:, index + 1] << _WORD)
    codes: torch.Tensor = (pairs >> offset) & (2**bits - 1)
    return codes.to(torch.uint8)


def tensors_of(quantized: Quantized, save_as: SaveAs) -> dict[str, torch.Tensor]:
    """Return the tensors to store instead of a layer's `weight`, by the name after the layer's path."""
    assert save_as == "compressed-tensors"
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


def read_tensors(tensors: Mapping[str, torch.Tensor], grid: Grid) -> Quantized:
    """Undo `tensors_of`: return the stored matrix."""
    rows, columns = tensors["weight_shape"].tolist()
    scales = tensors["weight_scale"]
    zeros = torch.full(scales.shape, grid.middle, dtype=torch.uint8, device=scales.device)
    if not grid.symmetric:
        zeros = unpack(tensors["weight_zero_point"].T, grid.bits, rows).T
    return Quantized(unpack(tensors["weight_packed"], grid.bits, columns), scales, zeros, grid)


def quantization_config(
    step: Quantize, save_as: SaveAs, model: nn.Module, decoder: DecoderBlocks
) -> dict[str, Any]:
    """Return the entry `quantization_config` of config.json, which also lists the linear layers that stay dense."""
    assert save_as == "compressed-tensors"
    grid = grid_of(step, torch.float32)
    packed = {
        f"{decoder.path(index)}.{matrix.name}"
        for index, block in enumerate(decoder.modules)
        for matrix in find_matrices(block, where=decoder.path(index))
    }
    dense = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in packed]
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
        "format": FORMAT,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": sorted(dense),
        "kv_cache_scheme": None,
        # Read by transformers, not by vLLM. Without it, transformers would unpack only when the whole model is called,
        # not when the decoder alone is; and it can't keep zero points packed (vllm-project/llm-compressor#1618).
        "dequantize": True,
    }


def check_packed(
    out: Path,
    tensors: Mapping[str, torch.Tensor],
    where: str,
    step: Quantize,
    expected: Mapping[str, MatrixReport],
) -> None:
    """Compare the packed matrices of one block, as read from the file, with the report.

    tensors: by name in the block; for a matrix its `weight`, [out, in], or the parts made by `tensors_of`.
    expected: reports by full name.
    Raises `CompressionError` with the first matrix that is missing or has another number of zeros.
    """
    for full, report in expected.items():
        name = full.removeprefix(f"{where}.")
        if name == full or name.endswith("]"):
            continue
        mine = {
            key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.weight")
        }
        zeros = None
        if "weight" in mine:
            zeros = int((mine["weight"] == 0).sum())
        elif "weight_packed" in mine:
            values = read_tensors(mine, grid_of(step, mine["weight_scale"].dtype)).values()
            zeros = count_zeros(values) if tuple(values.shape) == report.shape else None
        if zeros != report.zeros:
            raise CompressionError(
                f"{out}: {full} decodes to {zeros} zeros in its file, not {report.zeros}; {PRUNE_AGAIN}"
            )


def check_save_as(save_as: SaveAs, step: object) -> None:
    """Refuse a storage format that doesn't suit the step. Raises `StudyError`."""
    if save_as not in get_args(SaveAs):
        raise StudyError(f"unknown --save-as {save_as!r}; {nearest(save_as, get_args(SaveAs))}")
    if save_as != "dense" and not (
        isinstance(step, Quantize) and CATALOGUE[step.method].kind is Kind.QUANTIZE
    ):
        raise StudyError(
            f"--save-as {save_as} stores the codes of gptq and awq, and {step} has none; leave it out"
        )
