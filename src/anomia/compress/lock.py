"""One writer for a folder: the lock of whoever compresses into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from anomia.errors import CompressionError

LOCK = "writer.lock"


@contextmanager
def only_writer(out: Path, scratch: Path) -> Iterator[None]:
    """Holds a lock in `scratch`, a folder in `out`, while the body runs; the system takes it from a process that ends.

    A folder that is somebody's finished work gets none: nothing is written into it. Where no lock can be made, what
    writes next says why; on file systems without locks nothing is kept out.

    Raises:
        CompressionError: another process writes there.
    """
    file = scratch / LOCK
    lock = FileLock(file, timeout=0)
    try:
        if scratch.is_dir() or not out.exists() or not any(out.iterdir()):
            scratch.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        owner = ""
        with suppress(OSError):
            owner = file.read_text(encoding="utf-8").strip()
        who = f" (process {owner})" if owner.isdecimal() else ""
        raise CompressionError(
            f"another anomia{who} is writing {out}; wait until it ends and run the same command again, or choose another folder"
        ) from None
    except (OSError, NotImplementedError):
        pass
    try:
        if lock.is_locked:
            # For the message of whoever is kept out.
            with suppress(OSError):
                file.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        if lock.is_locked:
            # While it is still held, so that nobody opens a file that is about to go.
            with suppress(OSError):
                file.unlink()
        lock.release()
