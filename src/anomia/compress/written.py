"""The finished files of an unfinished folder, with hashes: a resumed call only uses files that are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import xxhash

from anomia.compress.shards import write_shard
from anomia.errors import CompressionError

_PIECE = 2**24


def content_hash(files: Sequence[Path]) -> str:
    """Hash the names, sizes and contents of some files."""
    digest = xxhash.xxh3_128()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def value_hash(value: torch.Tensor) -> str:
    """Hash the shape and values of a tensor; −0 counts as 0."""
    # Adding 0 makes −0 to 0, and changes no other value of any type.
    flat = (value.detach() + torch.zeros((), dtype=value.dtype, device=value.device)).contiguous().cpu()
    digest = xxhash.xxh3_128(str((value.dtype, tuple(value.shape))).encode())
    digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_written(folder: Path, files: Sequence[Path], digest: str | None, out: Path) -> None:
    """Refuse to resume if a file that an earlier call finished is missing or has changed.

    digest: of the files when they were written; None if it wasn't recorded.
    """
    lost = next((file for file in files if not file.is_file()), None)
    if lost is not None:
        what = f"{lost} is missing from the finished blocks"
    elif digest is not None and content_hash(files) != digest:
        what = (
            f"{files[0] if len(files) == 1 else folder} is not what an earlier call wrote there: it was "
            "damaged or replaced"
        )
    else:
        return
    raise CompressionError(f"{what}; remove {out} and run the same command again")


class Written:
    """The finished shards of a folder. noted: hash by file name, owned by the caller. save: called on each change."""

    def __init__(self, folder: Path, noted: dict[str, str], save: Callable[[], None]) -> None:
        self._folder, self._noted, self._save = folder, noted, save

    def __contains__(self, name: str) -> bool:
        """Whether a shard exists unchanged; otherwise it must be written again."""
        file = self._folder / name
        return name in self._noted and file.is_file() and content_hash([file]) == self._noted[name]

    def write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a shard and record its hash. Raises as `write_shard` does."""
        write_shard(self._folder / name, tensors)
        self._noted[name] = content_hash([self._folder / name])
        self._save()

    def remove(self) -> None:
        """Delete the recorded shards."""
        for name in self._noted:
            (self._folder / name).unlink(missing_ok=True)
        self._noted.clear()
        self._save()
