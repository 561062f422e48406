"""Headers of safetensors files: names, shapes and dtypes of tensors, without values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from anomia.errors import ModelError

POINTER = b"version https://git-lfs"
# Dtypes that are used as stored.
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
         "U16": 16, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}  # fmt: skip


class StoredTensor(NamedTuple):
    """The file, shape and dtype of a stored tensor. dtype: the name in safetensors (`BF16`, `F8_E4M3`, …)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size in the file, in bytes."""
        return math.prod(self.shape) * _BITS.get(self.dtype, 8) // 8


def read_headers(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """The tensors of safetensors files by name. If a name is in several files, the last one counts.

    Values are read only to compare tensors of the same name in two files.

    Raises:
        ModelError: a file is damaged, empty or not safetensors; a name is in two files with different values.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        with opened(file) as handle:
            for key in handle.keys():  # noqa: SIM118 - a safetensors handle isn't a mapping
                part = handle.get_slice(key)
                stored = StoredTensor(file, tuple(part.get_shape()), part.get_dtype())
                if key in tensors and not same_values(key, tensors[key], key, stored):
                    raise ModelError(
                        f"model: {key} is in {tensors[key].file.name} and in {file.name} of {file.parent}, with"
                        " different values; remove the file that doesn't belong to this model"
                    )
                tensors[key] = stored
    return tensors


def opened(file: Path) -> Any:
    """Opens a safetensors file for reading.

    Raises:
        ModelError: it is missing, truncated, or not safetensors.
    """
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(_broken(file, error)) from None


def _broken(file: Path, error: Exception) -> str:
    """The message for a weight file that can't be opened."""
    if not file.is_file():
        return f"model: the shard {file} is missing; download the model again"
    start, size = first_bytes(file), file.stat().st_size
    if start.startswith(POINTER):
        return f"model: {file} is a Git LFS pointer, not the file itself; run `git lfs pull` in {file.parent}"
    if size == 0:
        return f"model: {file} is empty; download it again"
    # The first eight bytes of safetensors are the length of its header, so the upper four are zero.
    pickled = start.startswith(b"\x80") and start[4:8] != bytes(4)
    if start.startswith(b"PK\x03\x04") or pickled:
        return f"model: {file} is a pickle under another name, which can run code when loaded; convert it"
    if start.startswith(b"GGUF"):
        return (
            f"model: {file} is a GGUF file under another name; give it the ending .gguf, and give that file"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b'{"')):
        return f"model: {file} is a web page or a server's answer, not weights; log in and download it again"
    return (
        f"model: the shard {file} is truncated or not safetensors ({error}); it has {size:,} bytes. Download "
        "it again"
    )


def first_bytes(file: Path) -> bytes:
    """The first 64 bytes of a file; empty if it can't be read."""
    try:
        with file.open("rb") as content:
            return content.read(64)
    except OSError:
        return b""


def same_values(name: str, one: StoredTensor, other_name: str, other: StoredTensor) -> bool:
    """Whether two stored tensors are equal. Values are read only if shapes and dtypes match."""
    if one[1:] != other[1:]:
        return False
    with opened(one.file) as first, opened(other.file) as second:
        return torch.equal(first.get_tensor(name), second.get_tensor(other_name))
