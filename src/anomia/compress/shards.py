"""Safetensors checkpoints on disk, tensor by tensor: reading a model folder, writing another one."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
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


class StoredTensors(NamedTuple):
    """A model folder with safetensors weights. tensors: by their names in the files."""

    folder: Path
    tensors: Mapping[str, StoredTensor]

    @property
    def bytes(self) -> int:
        """All weights together."""
        return sum(info.bytes for info in self.tensors.values())

    def stored_dtype(self, names: Iterable[str]) -> torch.dtype:
        """The floating type of the first of some tensors that has one."""
        return next(
            (_DTYPES[d] for d in (self.tensors[n].dtype for n in names) if d in _DTYPES), torch.float32
        )

    def stored_dtypes(self) -> set[str]:
        """The floating types that tensors have, by their names in the files."""
        return {info.dtype for info in self.tensors.values()} & _DTYPES.keys()

    def read(self, names: Iterable[str], *, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Some tensors, floating ones as `dtype` if given. The files are closed again."""
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
    """The tensors of the files that loading a model folder reads.

    Raises `ModelError` that names the file that is missing or damaged.
    """
    return StoredTensors(folder, read_headers(weight_files(folder)))


def match_names(model: nn.Module, places: Mapping[str, str], prefix: str) -> dict[str, str] | None:
    """The stored name of every parameter and saved buffer under `prefix`, by its name in the model.

    `None` where they don't correspond one to one: a layout that `transformers` converts while loading.

    Args:
        places: stored name by the model's, as the account of its tensors has it.
    """
    names = [name for name in model.state_dict() if name.startswith(prefix)]
    return {name: places[name] for name in names} if all(name in places for name in names) else None


def fill(model: nn.Module, values: Mapping[str, torch.Tensor], *, device: torch.device) -> None:
    """Give parameters and buffers their values, by name."""
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(value.to(device), requires_grad=False)
        else:
            owner._buffers[leaf] = value.to(device)


def empty(module: nn.Module) -> None:
    """Take the memory of all parameters of a module back."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)
    # glibc keeps freed memory that lies between small live objects; over many blocks that adds up.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def write_shard(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a shard aside and rename it, so that a name in the folder is always a whole file.

    tensors: by full name, of any shape and on any device.
    Raises `CompressionError` when a value is NaN or infinite, and when the disk is full or can't be written.
    """
    check_finite(tensors)
    aside = file.with_suffix(".partial")
    try:
        save_file(
            {name: value.contiguous().cpu() for name, value in tensors.items()}, aside, {"format": "pt"}
        )
        # safetensors makes files that only their owner can read, unlike everything else in the folder.
        aside.chmod(0o644)
        os.replace(aside, file)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise CompressionError(
            f"{file} can't be written ({error}); make room or choose another folder, then run the same command"
            " again: it continues after the last finished block"
        ) from None


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuses tensors with values that are NaN or infinite, wherever in a model they are."""
    for name, value in tensors.items():
        # Masks of old checkpoints hold −∞ on purpose; no model reads them.
        if not value.is_floating_point() or name.endswith(("masked_bias", "attn.bias")):
            continue
        plain = value if value.element_size() > 1 else value.float()
        broken = int((~torch.isfinite(plain)).sum())
        if broken:
            raise RefusedError(
                f"{name} has {broken:,} of {value.numel():,} values that are NaN or infinite in {value.dtype}; the model is "
                "damaged, or needs a wider type (--dtype bfloat16 or float32)"
            )


def shard_name(number: int) -> str:
    """The file of a shard, the first one with number 0."""
    return f"model-{number + 1:05d}.safetensors"


def grouped(sizes: Mapping[str, int]) -> list[list[str]]:
    """Tensors in their order, in groups for one shard each: of up to 256 MiB, or one larger tensor. sizes: in bytes."""
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
    """Refuses a disk that is too small for a folder of this many bytes; what it holds already counts."""
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed - written:
        raise CompressionError(
            f"{folder} has {megabytes(free)} free where {megabytes(needed - written)} are needed; make room or choose"
            " another folder"
        )


def write_index(folder: Path, places: Mapping[str, str], total: int) -> None:
    """The index of a sharded checkpoint. places: tensor to file name."""
    content: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    write_json(folder / INDEX, content)


_WHOLE_SHARD = 256 * 2**20
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
