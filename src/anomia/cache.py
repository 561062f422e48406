"""The files kept on disk between runs: converted models, and downloads of the hub client."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from anomia.demo import cache_folder, is_converted
from anomia.errors import RunError


class Kept(NamedTuple):
    """A kept entry. kind: `converted`, or for downloads `model` or `dataset`. size: in bytes."""

    kind: str
    name: str
    path: Path
    size: int


def kept() -> list[Kept]:
    """All kept entries, largest first."""
    return sorted([*_converted(), *_downloaded()], key=lambda entry: -entry.size)


def clear(name: str | None) -> list[Kept]:
    """Remove all converted models, or the entry with this name (also a download); return the removed entries.

    Without a name, downloads stay, because other programs use them too.

    Raises:
        RunError: no entry has this name, or it can't be removed.
    """
    everything = kept()
    chosen = [e for e in everything if (e.kind == "converted" if name is None else e.name == name)]
    if name is not None and not chosen:
        known = ", ".join(entry.name for entry in everything) or "nothing"
        raise RunError(f"cache: nothing is named {name!r}; found: {known}")
    for entry in chosen:
        try:
            shutil.rmtree(entry.path)
        except OSError as error:
            raise RunError(f"cache: {entry.path} can't be removed: {error.strerror or error}") from None
    return chosen


def _converted() -> list[Kept]:
    folder = cache_folder()
    if not folder.is_dir():
        return []
    # The folder may be one that the user shares with other programs.
    return [
        Kept("converted", path.name, path, _size(path))
        for path in sorted(folder.iterdir())
        if path.is_dir() and is_converted(path.name)
    ]


def _downloaded() -> list[Kept]:
    import huggingface_hub

    try:
        found = huggingface_hub.scan_cache_dir()
    except huggingface_hub.CacheNotFound:
        return []
    return [Kept(repo.repo_type, repo.repo_id, repo.repo_path, repo.size_on_disk) for repo in found.repos]


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
