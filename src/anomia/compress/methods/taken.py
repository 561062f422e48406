"""The blocks of a model that was already pruned, taken from its files; what follows works on its zeros."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from anomia.compress.blocks import find_blocks
from anomia.compress.matrices import WeightMatrix
from anomia.compress.methods.base import BlockWork, Method
from anomia.compress.methods.zeros import report_matrix
from anomia.compress.report import MatrixReport
from anomia.compress.shards import StoredTensors
from anomia.compress.steps import Take
from anomia.errors import RefusedError
from anomia.models.examine import Examined, examine

# How many more zeros than base a pruned matrix has at least, and how many of base's different values it keeps at least:
# int8 with a scale per row leaves about half of those of bfloat16, and pruning all.
_FEW_ZEROS, _FEWER_VALUES, _ROWS = 0.005, 0.75, 8


class PrunedModel(NamedTuple):
    """The stored tensors of a compressed model. places: the stored name of each by its name in the model."""

    tensors: StoredTensors
    places: Mapping[str, str]


@functools.lru_cache(maxsize=1)
def open_taken(model: str) -> PrunedModel:
    """Open the files of a compressed model.

    Raises `ModelError` if there is none, and `CompressionError` if it doesn't store its tensors one to one.
    """
    found = examine(model)
    if found.account is None or found.files.folder is None or found.account.converted:
        raise RefusedError(
            f"{model} doesn't store its weights as the model holds them (quantized, GGUF, or converted while loading), "
            "so its zeros can't be taken; save it as a dense safetensors folder"
        )
    return PrunedModel(StoredTensors(found.files.folder, found.stored), found.account.places)


def taken_files(model: str) -> list[Path]:
    """The weight files of a compressed model, which its repair depends on."""
    return sorted({stored.file for stored in open_taken(model).tensors.tensors.values()})


def check_taken(base: Examined, model: str) -> None:
    """Refuse, before any work, a compressed model that isn't base with other values in its blocks.

    Raises `CompressionError`, with the names of tensors that differ.
    """
    open_taken.cache_clear()
    taken = open_taken(model)
    if base.account is None or base.skeleton is None or base.files.folder is None:
        raise RefusedError(
            f"base doesn't store its weights as the model holds them, so {model} can't be compared with it; save base "
            "as a dense safetensors folder"
        )
    mine, places = StoredTensors(base.files.folder, base.stored), base.account.places
    apart = sorted(places.keys() ^ taken.places.keys())
    apart += [
        name
        for name, place in places.items()
        if name in taken.places
        and mine.tensors[place].shape != taken.tensors.tensors[taken.places[name]].shape
    ]
    if apart:
        raise RefusedError(
            f"{model} has other tensors than base ({_few(apart)}), so its zeros don't belong to base's weights; give "
            "the model that it was made from"
        )
    decoder = find_blocks(base.skeleton)
    inside = tuple(f"{decoder.path(index)}." for index in range(len(decoder.modules)))
    changed = [
        name
        for name in places
        if not name.startswith(inside) and not _is_same(mine, places[name], taken, name)
    ]
    if changed:
        raise RefusedError(
            f"{model} differs from base outside its blocks ({_few(changed)}); only what was pruned inside the blocks "
            "can be repaired"
        )
    pairs = (
        (
            mine.read([places[name]])[places[name]],
            taken.tensors.read([taken.places[name]])[taken.places[name]],
        )
        for name in places
        if name.startswith(inside) and len(mine.tensors[places[name]].shape) > 1
    )
    pruned = next((pair for pair in pairs if _zeros(pair[1]) > _zeros(pair[0]) + _FEW_ZEROS), None)
    if pruned is None:
        raise RefusedError(
            f"{model} has no more zeros than base, so nothing was pruned whose other weights could be repaired"
        )
    if _is_rounded(*pruned):
        raise RefusedError(
            f"the weights of {model} lie on a grid, as quantization leaves them, and repaired ones wouldn't; quantize "
            "base anew with the outputs of base as the target, as in gptq:4,targets=base"
        )


def _zeros(weight: torch.Tensor) -> float:
    """The share of zeros. weight: of any shape."""
    return float((weight == 0).float().mean())


def _is_rounded(base: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the first rows of a matrix have far fewer different values than base at the same places: [.., in] each.

    Both are read in the narrower type of the two, since bfloat16 has few values of its own.
    """
    narrower = min(base.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    rows, mine = (each.to(narrower).reshape(-1, each.shape[-1])[:_ROWS] for each in (base, other))
    pairs = [(one[kept], two[kept]) for one, two, kept in zip(rows, mine, mine != 0, strict=True)]
    before, after = (sum(len(pair[n].unique()) for pair in pairs) for n in range(2))
    return after < _FEWER_VALUES * before


def _is_same(mine: StoredTensors, place: str, taken: PrunedModel, name: str) -> bool:
    """Whether a tensor is equal in both, if necessary after rounding to the narrower type of the two."""
    one, other = mine.read([place])[place], taken.tensors.read([taken.places[name]])[taken.places[name]]
    narrower = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(one.to(narrower), other.to(narrower))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _take_block(work: BlockWork) -> list[MatrixReport]:
    """Give all of a block's parameters the compressed model's values, in place."""
    assert isinstance(work.step, Take)
    taken = open_taken(work.step.model)
    for name, parameter in work.block.named_parameters():
        place = taken.places.get(f"{work.where}.{name}")
        stored = None if place is None else taken.tensors.read([place])[place]
        if stored is None or stored.shape != parameter.shape:
            raise RefusedError(
                f"{work.step.model} has no tensor {work.where}.{name} of shape {list(parameter.shape)}; give "
                "a model that was made from base"
            )
        parameter.data.copy_(stored)
    return [report_matrix(matrix) for group in work.groups for matrix in group.matrices]


def _take_unreached(matrix: WeightMatrix, work: BlockWork) -> MatrixReport:
    """Report a matrix that no calibration token reached: it is taken with the block and stays as it is."""
    _take_block(work)
    return report_matrix(matrix)._replace(note="no calibration token reached it: as in the compressed model")


METHOD = Method(None, _take_block, _take_unreached, given_zeros=True)
