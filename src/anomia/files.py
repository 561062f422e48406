"""Write and read a run's files atomically, on a disk or at any fsspec address.

On a disk, a file is written under a temporary name, synced and renamed, and the folder is synced: after a power cut
the file is complete or absent. Object stores show only complete objects, so one write is enough there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from anomia.errors import RunError

if TYPE_CHECKING:
    import polars as pl

_FULL = (errno.ENOSPC, errno.EDQUOT)


def place(text: str | Path) -> Path:
    """A local path, or for an address such as `s3://bucket/run` an object with the methods of a path.

    Raises:
        RunError: the address is invalid, or its package is not installed.
    """
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    if text.startswith("file://"):
        # A local path in URL form; its files can be locked and renamed.
        return Path(text.removeprefix("file://"))
    from upath import UPath

    try:
        # UPath has the methods of Path, but no common base class.
        return cast(Path, UPath(text))
    except (ImportError, ValueError) as error:
        raise RunError(f"run: {text} can't be reached: {error}") from None


def is_local(path: Path) -> bool:
    """Whether a path is on a disk, where files can be locked, synced and renamed."""
    return isinstance(path, Path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; once this returns, the file survives a power cut.

    Raises:
        RunError: the path can't be written, or the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_local(path):
            path.write_bytes(content)
            return
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if is_local(path):
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        raise RunError(unwritable(path, error)) from None


def check_own(folder: Path, names: Iterable[str], *, mark: tuple[str, str], about: str) -> None:
    """Refuse a folder in which files of the user would be overwritten.

    Args:
        folder: where to write, local or at an address.
        names: of files and folders that would be written.
        mark: the name of a file that is always written, and a text in it by which files of an earlier call are known.
        about: the start of the message.

    Raises:
        RunError: one of the names exists, and not from an earlier call.
    """
    first = folder / mark[0]
    if first.is_file() and mark[1] in first.read_text(encoding="utf-8", errors="replace"):
        return
    taken = next((name for name in names if (folder / name).exists()), None)
    if taken is not None:
        raise RunError(f"{about}: {folder / taken} exists and was not written by anomia; give another folder")


def sync_folder(path: Path) -> None:
    """Sync a local folder, so that renames in it survive a power cut."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> str:
    """The message for a file that can't be written, with the remedy."""
    if error.errno not in _FULL:
        return f"run: {path} can't be written: {error.strerror or error}"
    free = ""
    if is_local(path):
        folder = next(parent for parent in path.parents if parent.exists())
        free = f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free at {folder})"
    return (
        f"run: the disk is full{free}: {path} was not written. Everything measured so far is kept; free "
        "some space and run the same command again"
    )


def sha256(content: bytes) -> str:
    """The SHA-256 checksum in hex."""
    return hashlib.sha256(content).hexdigest()


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `*.damaged`, and return the new path."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{number}.damaged")
    path.rename(aside)
    return aside


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        RunError: the file is damaged or is not a mapping.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"run: {path} can't be read: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"run: {path} holds no settings; it is damaged")
    return values


def parse_yaml(text: str) -> Any:
    """Parse YAML into plain types.

    Raises:
        ValueError: it isn't YAML, or has an invalid value; the message is one line.
    """
    try:
        return yaml.safe_load(text)
    # PyYAML doesn't wrap errors of a value's type: a month 99, a number of 5,000 digits, `!!int ''`.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse_parquet(content: bytes, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Parse a Parquet file, or some of its columns.

    This uses Arrow's reader, which reports damaged files, whereas that of Polars can end the process.

    Raises:
        ValueError: it isn't a Parquet file, or is damaged; the message is one line.
    """
    import polars as pl
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(content), columns=None if columns is None else list(columns))
        table.validate(full=True)
        # Raises if a name of a column or nested field isn't valid text, on which Polars would panic.
        table.schema.to_string()
        return cast(pl.DataFrame, pl.from_arrow(table))
    except (
        OSError,
        ValueError,
        NotImplementedError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file doesn't exist.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"run: {path} can't be read: {error}; remove it and run again") from None
    return values
