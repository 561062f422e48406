"""A lock that allows one writer per folder."""

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
    """Hold a lock in `scratch`, a folder in `out`, while the body runs; the system releases it if the process ends.

    A folder with finished work isn't locked, since nothing is written into it. If the lock can't be created, the next
    write gives the reason. File systems without locks have no protection.

    Raises:
        CompressionError: another process is writing there.
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
            f"another anomia{who} is writing {out}; wait until it ends and run the same command again, or "
            "choose another folder"
        ) from None
    except (OSError, NotImplementedError):
        pass
    try:
        if lock.is_locked:
            # For the message in other processes.
            with suppress(OSError):
                file.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        if lock.is_locked:
            # Delete it while the lock is held, so that no other process opens a file that is about to be deleted.
            with suppress(OSError):
                file.unlink()
        lock.release()
