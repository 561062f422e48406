"""Files of a run, written so that each is whole or absent, on a disk or on any fsspec address.

On a disk a file is written aside, synced, renamed, and the folder is synced: after a power cut it is there or
not, never in part. Object stores show an object only when it is whole; there one write is enough.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from anomia.errors import RunError

if TYPE_CHECKING:
    import polars as pl

_FULL = (errno.ENOSPC, errno.EDQUOT)


def place(text: str | Path) -> Path:
    """A folder or file by its name: a local path, or an address such as `s3://bucket/run` with a path's methods.

    Raises:
        RunError: the package for such addresses is not installed.
    """
    if isinstance(text, Path) or "://" not in text:
        return Path(text)
    if text.startswith("file://"):
        # A disk by another name; files there can be locked and renamed.
        return Path(text.removeprefix("file://"))
    from upath import UPath

    try:
        # It has the methods of a path and no common base class with it.
        return cast(Path, UPath(text))
    except (ImportError, ValueError) as error:
        raise RunError(f"run: {text} can't be reached: {error}") from None


def is_local(path: Path) -> bool:
    """Whether a place is on a disk, where files can be locked, synced and renamed."""
    return isinstance(path, Path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all; when this returns it survives a power cut.

    Raises:
        RunError: the place can't be written, or the disk is full.
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


def sync_folder(path: Path) -> None:
    """Makes renames in a local folder last."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> str:
    """Why a file could not be written, and the remedy."""
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
    """The checksum of a file's content."""
    return hashlib.sha256(content).hexdigest()


def set_aside(path: Path) -> Path:
    """Renames a file that can't be trusted to `*.damaged` and returns its new name."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{number}.damaged")
    path.rename(aside)
    return aside


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        RunError: the file is damaged or holds something else.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"run: {path} can't be read: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"run: {path} holds no settings; it is damaged")
    return values


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, of plain types only.

    Raises:
        ValueError: it is no YAML, or a value in it can't be made; worded in one line.
    """
    try:
        return yaml.safe_load(text)
    # PyYAML lets faults of a value's own type through: a month 99, a number of 5,000 digits, `!!int ''`.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse_parquet(content: bytes, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of a Parquet file, or some of its columns.

    Arrow's reader says what is wrong with a damaged file, where that of Polars can end the process.

    Raises:
        ValueError: it is none, or is damaged; worded in one line.
    """
    import polars as pl
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(content), columns=None if columns is None else list(columns))
        table.validate(full=True)
        # Raises where a name, of a column or within one, is no text: Polars would panic.
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
    """Reads a JSON object; None where there is no file.

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
