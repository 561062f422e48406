"""The files of a model other than weights: sizes, dates and hashes."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import NamedTuple

from anomia.models.files import ModelFiles

_LARGE = 256 * 2**20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


class SmallFile(NamedTuple):
    """A file other than weights. date: last modification, in UTC. sha256: "" if the file is too large."""

    bytes: int
    date: str
    sha256: str


def small_files(files: ModelFiles) -> dict[str, SmallFile]:
    """All files in the folder other than weights, by name; for a GGUF model, the GGUF file itself."""
    if files.gguf:
        paths = [Path(files.source) / files.gguf]
    elif files.folder is None:
        return {}
    else:
        paths = [path for path in sorted(files.folder.iterdir()) if path.is_file()]
        paths = [path for path in paths if path.suffix not in _WEIGHTS]
    return {path.name: _small_file(path) for path in paths}


def _small_file(path: Path) -> SmallFile:
    there = path.stat()
    date = datetime.datetime.fromtimestamp(there.st_mtime, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    if path.suffix == ".gguf" or there.st_size > _LARGE:
        return SmallFile(there.st_size, date, "")
    with path.open("rb") as file:
        return SmallFile(there.st_size, date, hashlib.file_digest(file, "sha256").hexdigest())
