"""Read and write safetensors checkpoints tensor by tensor."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from anomia.compress.report import megabytes
from anomia.errors import CompressionError, RefusedError
from anomia.files import write_json
from anomia.models.files import INDEX, weight_files
from anomia.models.headers import StoredTensor, opened, read_headers

_PIECE = 1 << 22


class StoredTensors(NamedTuple):
    """A model folder with safetensors weights. tensors: by stored name."""

    folder: Path
    tensors: Mapping[str, StoredTensor]

    @property
    def bytes(self) -> int:
        """The size of all weights in bytes."""
        return sum(info.bytes for info in self.tensors.values())

    def stored_dtype(self, names: Iterable[str]) -> torch.dtype:
        """Return the floating-point type of the first tensor that has one; float32 if none has."""
        return next(
            (_DTYPES[d] for d in (self.tensors[n].dtype for n in names) if d in _DTYPES), torch.float32
        )

    def stored_dtypes(self) -> set[str]:
        """Return the floating-point types of all tensors, as safetensors names them."""
        return {info.dtype for info in self.tensors.values()} & _DTYPES.keys()

    def read(self, names: Iterable[str], *, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Read some tensors, cast to `dtype` if given and floating-point. The files are closed afterwards."""
        wanted: dict[Path, list[str]] = {}
        for name in names:
            wanted.setdefault(self.tensors[name].file, []).append(name)
        found = {}
        for file, mine in wanted.items():
            with opened(file) as handle:
                for name in mine:
                    tensor = handle.get_tensor(name)
                    found[name] = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        return found


def open_checkpoint(folder: Path) -> StoredTensors:
    """Open the weight files of a model folder.

    Raises `ModelError`, which names the file, if one is missing or damaged.
    """
    return StoredTensors(folder, read_headers(weight_files(folder)))


def match_names(model: nn.Module, places: Mapping[str, str], prefix: str) -> dict[str, str] | None:
    """Return the stored name of every parameter and saved buffer under `prefix`, by its name in the model.

    `None` if they don't match one to one, because `transformers` converts the layout while loading.

    Args:
        model: the model, with or without weights.
        places: stored name by model name.
        prefix: start of the model names.
    """
    names = [name for name in model.state_dict() if name.startswith(prefix)]
    return {name: places[name] for name in names} if all(name in places for name in names) else None


def fill(model: nn.Module, values: Mapping[str, torch.Tensor], *, device: torch.device) -> None:
    """Set parameters and buffers to values, by name, on a device."""
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(value.to(device), requires_grad=False)
        else:
            owner._buffers[leaf] = value.to(device)


def empty(module: nn.Module) -> None:
    """Free the memory of all parameters of a module."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    # glibc keeps freed memory between small live objects, which adds up over many blocks.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def write_shard(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a shard to a temporary file and rename it, so that a shard in the folder is always complete.

    tensors: by full name, of any shape and on any device.
    Raises `CompressionError` if a value is NaN or infinite, or if the disk is full or can't be written.
    """
    check_finite(tensors)
    aside = file.with_suffix(".partial")
    try:
        save_file(
            {name: value.contiguous().cpu() for name, value in tensors.items()}, aside, {"format": "pt"}
        )
        # safetensors makes files that only their owner can read, unlike the other files in the folder.
        aside.chmod(0o644)
        os.replace(aside, file)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise CompressionError(
            f"{file} can't be written ({error}); make room or choose another folder, then run the same command"
            " again: it continues after the last finished block"
        ) from None


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse results with NaN or infinite values. tensors: by name, of any shape."""
    for name, value, broken in _broken(tensors):
        raise RefusedError(
            f"{name} has {broken:,} of {value.numel():,} values that are NaN or infinite in {value.dtype}; "
            "the model is damaged, or needs a wider type (--dtype bfloat16 or float32)"
        )


def check_weights(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse a model's own weights if some are NaN or infinite, before anything is computed with them.

    tensors: by name, of any shape.
    """
    for name, value, broken in _broken(tensors):
        dtype = str(value.dtype).removeprefix("torch.")
        # Values of a wider type can become infinite as they are loaded, but not NaN.
        narrow = value.dtype == torch.float16 and not bool(value.isnan().any())
        raise RefusedError(
            f"{name} has {broken:,} of {value.numel():,} values that are NaN or infinite: "
            + (
                f"the weights are damaged, or too large for {dtype}; load them in a wider type (--dtype "
                "bfloat16 or float32)"
                if narrow
                else "the weights themselves are damaged; get or save the model again"
            )
        )


def _broken(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor, int]]:
    """Yield the tensors with NaN or infinite values, with their number."""
    for name, value in tensors.items():
        # Attention masks in old checkpoints contain −∞ on purpose; models don't read them.
        mask = name.endswith("masked_bias") or (f".{name}".endswith(".attn.bias") and value.dim() > 1)
        if not value.is_floating_point() or mask:
            continue
        if broken := count_broken(value):
            yield name, value, broken


def count_broken(values: torch.Tensor) -> int:
    """Return how many values are NaN or infinite, in pieces: `isfinite` takes more memory than a large embedding."""
    values = values.detach()
    if values.is_meta:
        return 0
    if values.dim() > 1 and not values.is_contiguous():
        # To flatten a transposed view would copy it.
        return sum(map(count_broken, values.unbind(0))) if values.dim() > 2 else _count(values.mT)
    return _count(values)


def _count(values: torch.Tensor) -> int:
    return sum(_count_piece(piece) for piece in torch.split(values.reshape(-1), _PIECE))


def _count_piece(piece: torch.Tensor) -> int:
    if piece.element_size() == 1:
        piece = piece.float()
    # Ten times as fast as `isfinite`: a sum is finite only if all values are; one that overflows is counted.
    if bool(torch.isfinite(piece.sum(dtype=None if piece.element_size() > 2 else torch.float32))):
        return 0
    return int((~torch.isfinite(piece)).sum())


def shard_name(number: int) -> str:
    """Return the file name of a shard; numbers start at 0."""
    return f"model-{number + 1:05d}.safetensors"


def grouped(sizes: Mapping[str, int]) -> list[list[str]]:
    """Group tensors in order into shards of at most 256 MiB, or one larger tensor. sizes: bytes by name."""
    groups: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not groups or filled + size > _WHOLE_SHARD:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def check_room(folder: Path, needed: int) -> None:
    """Refuse a disk without room for a folder of this many bytes, including the bytes that the folder already has."""
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed - written:
        raise CompressionError(
            f"{folder} has {megabytes(free)} free where {megabytes(needed - written)} are needed; make room or choose"
            " another folder"
        )


def write_index(folder: Path, places: Mapping[str, str], total: int) -> None:
    """Write the index of a sharded checkpoint. places: file name by tensor name. total: in bytes."""
    content: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    write_json(folder / INDEX, content)


_WHOLE_SHARD = 256 * 2**20
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
