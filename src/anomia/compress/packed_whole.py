"""Packed checkpoints of a model in memory, whose stored tensors transformers merges, splits or renames while loading.

That is how it loads most mixtures: the files hold one matrix per expert, and memory one parameter for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.core_model_loading import revert_weight_conversion

from anomia.compress.blocks import DecoderBlocks
from anomia.compress.matrices import all_matrices
from anomia.compress.methods.grid import Quantized, grid_of
from anomia.compress.options import SaveAs
from anomia.compress.packed import (
    FORMATS,
    NOT_LINEAR,
    STACKED,
    add_settings,
    check_loadable,
    leave_out,
    tensors_of,
    why_dense,
)
from anomia.compress.shards import write_index, write_shard
from anomia.compress.stacks import orientation
from anomia.compress.steps import Quantize
from anomia.compress.verify import check_saved
from anomia.errors import AnomiaError, MissingExtraError, RefusedError
from anomia.models.files import INDEX
from anomia.models.tensors import file_names, merged_on_loading


def plan_whole(model: Any, decoder: DecoderBlocks, step: Quantize, save_as: SaveAs) -> dict[str, str]:
    """Return why each matrix is stored dequantized, by the name of its tensor in the files; empty if it is packed.

    Raises `CompressionError`, before any work, if nothing can be packed, or if transformers couldn't load it.
    """
    if save_as == "compressed-tensors" and find_spec("compressed_tensors") is None:
        # What is written is loaded again to check it.
        raise MissingExtraError("compressed-tensors", "quant")
    stored = as_stored(model, _shapes(model, decoder, step))
    is_merged = merged_on_loading(model)
    why = FORMATS[save_as].merged(grid_of(step, torch.float32))
    for name, quantized in stored.items():
        if why and quantized.codes.dim() == 2 and is_merged(name):
            raise RefusedError(
                f"{name} can't be stored as {save_as}: transformers merges it with others while loading, {why}; or "
                + leave_out(save_as)
            )
    unlike = _not_linear(model, decoder, step, save_as)
    reasons = {n: _why_not(n, q, save_as) for n, q in stored.items()} | dict.fromkeys(unlike, NOT_LINEAR)
    check_loadable(model, reasons, save_as)
    return reasons


def _not_linear(model: Any, decoder: DecoderBlocks, step: Quantize, save_as: SaveAs) -> list[str]:
    """Return the names in the files of the matrices that belong to no linear layer and aren't stacked."""
    names = [name for name, why in why_dense(model, decoder, step, save_as).items() if why == NOT_LINEAR]
    parameters = {name for name, _ in model.named_parameters()}
    weights = [name if name in parameters else f"{name}.weight" for name in names]
    return [place for places in file_names(model, weights).values() for place in places]


def _why_not(name: str, quantized: Quantized, save_as: SaveAs) -> str:
    """Return why a stored tensor isn't packed; empty if it is. quantized: only its shape is read."""
    if quantized.codes.dim() > 2 or not name.endswith(".weight"):
        return STACKED
    rows, columns = quantized.codes.shape
    return FORMATS[save_as].why_not((rows, columns), quantized.grid)


def _shapes(model: Any, decoder: DecoderBlocks, step: Quantize) -> dict[str, Quantized]:
    """Return codes without values for every matrix of the blocks, by its name in the model."""
    found = {}
    for index, block in enumerate(decoder.modules):
        where = decoder.path(index)
        for matrix in all_matrices(block, where):
            grid, (rows, columns) = grid_of(step, matrix.weight.dtype), matrix.weight.shape
            codes = torch.empty(rows, columns, dtype=torch.uint8, device="meta")
            zeros = torch.empty(rows, columns // grid.width(columns), dtype=torch.uint8, device="meta")
            found[f"{where}.{matrix.name}"] = Quantized(codes, zeros.to(grid.dtype), zeros, grid)
    return found


def as_stored(model: Any, quantized: Mapping[str, Quantized]) -> dict[str, Quantized]:
    """Return quantized parameters by the names and in the layout in which transformers stores them.

    quantized: by a matrix's name in the model, with `[index]` for one of a stack; with or without values. Codes of two
    dimensions in the result belong to a matrix, [out, in]; those of three to a stack that is stored as one tensor.
    A single matrix in a parameter of three dimensions is left out.
    """
    if not quantized:
        return {}
    slices: dict[str, dict[int, Quantized]] = {}
    parameters = {name for name, _ in model.named_parameters()}
    for name, its in quantized.items():
        if name in parameters:
            continue
        stack, bracket, index = name.removesuffix("]").rpartition("[")
        slices.setdefault(stack if bracket else f"{name}.weight", {})[int(index) if bracket else 0] = its
    meta = next(iter(quantized.values())).codes.is_meta
    state = {n: value.to("meta") if meta else value for n, value in model.state_dict().items()}
    converted = []
    for part in ("codes", "scales", "zeros"):
        # Saving splits, renames and transposes whole matrices, so it does the same to codes, scales and zero points.
        # Experts that no token reached come last in `quantized`, so sort them by number.
        mine = {
            name: _layout(model, name, [getattr(its[index], part) for index in sorted(its)])
            for name, its in slices.items()
        }
        converted.append(revert_weight_conversion(model, state | mine))
    codes, scales, zeros = converted
    grid = next(iter(quantized.values())).grid
    return {
        name: Quantized(value, scales[name], zeros[name], grid)
        for name, value in codes.items()
        if value.dtype == torch.uint8 and name in scales and name in zeros
    }


def _layout(model: Any, name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    """Return a parameter's codes, scales or zero points in the layout of the parameter. parts: [out, .] per matrix."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    parameter = module.get_parameter(leaf)
    if parameter.dim() == 2:
        return parts[0]
    stack = torch.stack(parts)
    return stack.mT if orientation(module, leaf, parameter) else stack


def pack_folder(
    model: Any,
    decoder: DecoderBlocks,
    out: Path,
    quantized: Mapping[str, Quantized],
    reasons: Mapping[str, str],
    step: Quantize,
    save_as: SaveAs,
) -> None:
    """Replace the matrices in a written folder by their codes, and check that it still loads as the model in memory.

    quantized: codes [out, in], by a matrix's name in the model. reasons: those of `plan_whole`.
    Raises `CompressionError` with the first tensor that a loaded model has otherwise.
    """
    stored = as_stored(model, quantized)
    places: dict[str, str] = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors: dict[str, torch.Tensor] = {}
        for name, value in load_file(file).items():
            parts = None
            if reasons.get(name) == "":
                its = stored[name]
                if not torch.equal(its.values(), value):
                    raise RefusedError(
                        f"the codes of {name} don't give its stored values; {leave_out(save_as)}"
                    )
                parts = tensors_of(its, save_as)
            layer = name.removesuffix("weight")
            tensors |= {name: value} if parts is None else {layer + n: part for n, part in parts.items()}
        write_shard(file, tensors)
        places |= dict.fromkeys(tensors, file.name)
    if (out / INDEX).exists():
        write_index(out, places, sum(file.stat().st_size for file in out.glob("*.safetensors")))
    add_settings(out, step, save_as, model, decoder)
    try:
        check_saved(out, model)
    except AnomiaError as error:
        raise RefusedError(
            f"what was stored as {save_as} doesn't load as the model in memory ({error}); {leave_out(save_as)}"
        ) from None
