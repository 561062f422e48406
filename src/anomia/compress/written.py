"""What an unfinished folder holds already, by content: an interrupted call goes on with what is as it was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import xxhash

from anomia.compress.shards import write_shard
from anomia.errors import CompressionError

_PIECE = 2**24


def content_hash(files: Sequence[Path]) -> str:
    """A hash of all that some files hold."""
    digest = xxhash.xxh3_128()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def check_written(folder: Path, files: Sequence[Path], digest: str | None, out: Path) -> None:
    """Refuses to go on where something that an earlier call finished is gone or has another content.

    digest: of the files as they were written; None where that wasn't noted.
    """
    lost = next((file for file in files if not file.is_file()), None)
    if lost is not None:
        what = f"{lost} is missing from the finished blocks"
    elif digest is not None and content_hash(files) != digest:
        what = f"{files[0] if len(files) == 1 else folder} is not what an earlier call wrote there: it was damaged or replaced"
    else:
        return
    raise CompressionError(f"{what}; remove {out} and run the same command again")


class Written:
    """The shards of a folder that are done. noted: hash by file name, kept by the caller. save: called when it grew."""

    def __init__(self, folder: Path, noted: dict[str, str], save: Callable[[], None]) -> None:
        self._folder, self._noted, self._save = folder, noted, save

    def __contains__(self, name: str) -> bool:
        """Whether a shard is there as it was written; one that isn't is written anew."""
        file = self._folder / name
        return name in self._noted and file.is_file() and content_hash([file]) == self._noted[name]

    def write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a shard and note it. Raises as `write_shard` does."""
        write_shard(self._folder / name, tensors)
        self._noted[name] = content_hash([self._folder / name])
        self._save()

    def remove(self) -> None:
        """Delete the shards that were noted."""
        for name in self._noted:
            (self._folder / name).unlink(missing_ok=True)
        self._noted.clear()
        self._save()
