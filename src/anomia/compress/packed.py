"""Packed checkpoints: the codes of quantized matrices are stored instead of dequantized values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.catalogue import CATALOGUE, MethodKind
from anomia.compress.matrices import compressed_layers, find_fused_experts
from anomia.compress.methods.grid import Quantized, grid_of
from anomia.compress.methods.zeros import count_zeros
from anomia.compress.options import SaveAs
from anomia.compress.packing import compressed_tensors, gptq
from anomia.compress.packing.base import PackedFormat, layers_of
from anomia.compress.report import MatrixReport
from anomia.compress.steps import Embeddings, Quantize
from anomia.compress.verify import PRUNE_AGAIN
from anomia.compress.written import value_hash
from anomia.errors import CompressionError, RefusedError, StudyError, nearest
from anomia.files import read_json, write_json
from anomia.models.tensors import splits_on_loading
from anomia.words import counted

FORMATS: Mapping[str, PackedFormat] = {
    "compressed-tensors": compressed_tensors.FORMAT,
    "gptq": gptq.FORMAT,
}
NOT_LINEAR = "it isn't a linear layer"
STACKED = "it is stored in one tensor with others"


def why_dense(model: nn.Module, decoder: DecoderBlocks, step: Quantize, save_as: SaveAs) -> dict[str, str]:
    """Return why each matrix of the blocks is stored dequantized, by its name in the model; empty if it is packed.

    model: its weights aren't read. A stack of matrices has one entry.
    """
    found: dict[str, str] = {}
    for index, block in enumerate(decoder.modules):
        where = decoder.path(index)
        for name, layer in compressed_layers(block):
            linear = isinstance(layer, nn.Linear)
            found[f"{where}.{name}"] = _why_not(layer.weight, step, save_as) if linear else NOT_LINEAR
        for fused in find_fused_experts(block, where=where):
            found[f"{where}.{fused.name}"] = NOT_LINEAR if fused.fold else STACKED
    return found


def check_loadable(model: nn.Module, reasons: Mapping[str, str], save_as: SaveAs) -> None:
    """Refuse, before any work, a model of which nothing can be packed, or that transformers couldn't load.

    reasons: those of `why_dense`.
    """
    split = "" if FORMATS[save_as].splits else splits_on_loading(model)
    if split:
        raise RefusedError(
            f"{type(model).__name__} can't be stored as {save_as}: transformers splits {split} while "
            f"loading, which it can't do with packed tensors; {leave_out(save_as)}"
        )
    if reasons and all(reasons.values()):
        name, why = next(iter(reasons.items()))
        raise RefusedError(
            f"no matrix of this model can be stored as {save_as} ({name}: {why}); {leave_out(save_as)}"
        )


def leave_out(save_as: SaveAs) -> str:
    """Return the advice to store dequantized values instead."""
    return f"leave out --save-as {save_as} to store dequantized values"


def _why_not(weight: torch.Tensor, step: Quantize, save_as: SaveAs) -> str:
    rows, columns = weight.shape
    return FORMATS[save_as].why_not((rows, columns), grid_of(step, weight.dtype))


def notes_on(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note per reason why matrices are stored dequantized. reasons: those of `why_dense`."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        if why:
            by_reason.setdefault(why, []).append(name)
    return tuple(
        f"stored dequantized: {counted(len(names), 'parameter')} ({names[0]}{', …' if names[1:] else ''}: {why})"
        for why, names in by_reason.items()
    )


def tensors_of(quantized: Quantized, save_as: SaveAs) -> dict[str, torch.Tensor] | None:
    """Return the tensors to store instead of a layer's `weight`, by the name after the layer's path.

    `None` if the format can't store a matrix of this shape.
    """
    its = FORMATS[save_as]
    rows, columns = quantized.codes.shape
    return None if its.why_not((rows, columns), quantized.grid) else its.tensors_of(quantized)


def read_tensors(tensors: Mapping[str, torch.Tensor], step: Quantize, save_as: SaveAs) -> Quantized:
    """Undo `tensors_of`: return the stored matrix."""
    scales = next(value for name, value in tensors.items() if "scale" in name)
    return FORMATS[save_as].read(tensors, grid_of(step, scales.dtype))


def add_settings(
    out: Path, step: Quantize, save_as: SaveAs, model: nn.Module, decoder: DecoderBlocks
) -> None:
    """Add the quantization settings to the configuration in a folder. model: its weights aren't read."""
    its = FORMATS[save_as]
    packed = {name for name, why in why_dense(model, decoder, step, save_as).items() if not why}
    paths = [decoder.path(index).split(".")[:-1] for index in range(len(decoder.modules))]
    # Of several lists of blocks, the part of the path that they share.
    blocks = ".".join(parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1)
    settings: dict[str, Any] = its.settings(step, layers_of(model, blocks, packed))
    config = read_json(out / "config.json") or {}
    write_json(out / "config.json", config | {"quantization_config": settings})
    if its.copy:
        write_json(out / its.copy, settings)


def check_packed(
    out: Path,
    tensors: Mapping[str, torch.Tensor],
    where: str,
    step: Quantize,
    save_as: SaveAs,
    expected: Mapping[str, MatrixReport],
    meant: Mapping[str, str],
) -> None:
    """Compare the packed matrices of one block, as read from the file, with the report and the values that were meant.

    tensors: by name in the block; for a matrix its `weight`, [out, in], or the parts made by `tensors_of`, or the whole
    parameter that holds it.
    expected: reports by full name. meant: hashes of the values of packed matrices, by full name (`written.value_hash`).
    Raises `CompressionError` with the first matrix that is missing, or has other values or another number of zeros.
    """
    for full, report in expected.items():
        name = full.removeprefix(f"{where}.")
        if name == full:
            continue
        stack, bracket, index = name.removesuffix("]").partition("[")
        mine = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
        zeros = None
        if stack in tensors:
            zeros = count_zeros(tensors[stack][int(index)] if bracket else tensors[stack])
        elif "weight" in mine:
            zeros = count_zeros(mine["weight"])
        elif FORMATS[save_as].mark in mine:
            values = read_tensors(mine, step, save_as).values()
            zeros = count_zeros(values) if tuple(values.shape) == report.shape else None
            if zeros == report.zeros and value_hash(values) != meant.get(full):
                raise CompressionError(
                    f"{out}: {full} decodes to other values than were stored; {PRUNE_AGAIN}"
                )
        if zeros != report.zeros:
            raise CompressionError(
                f"{out}: {full} decodes to {zeros} zeros in its file, not {report.zeros}; {PRUNE_AGAIN}"
            )


def check_save_as(save_as: SaveAs, steps: Sequence[Any]) -> None:
    """Refuse a storage format that doesn't suit the last step other than `embeddings`. Raises `StudyError`."""
    step = next((step for step in reversed(steps) if not isinstance(step, Embeddings)), steps[-1])
    if save_as not in get_args(SaveAs):
        raise StudyError(f"unknown --save-as {save_as!r}; {nearest(save_as, get_args(SaveAs))}")
    if save_as != "dense" and not (
        isinstance(step, Quantize) and CATALOGUE[step.method].kind is MethodKind.QUANTIZE
    ):
        raise StudyError(
            f"--save-as {save_as} stores the codes of gptq and awq, and {step} has none; leave it out"
        )
