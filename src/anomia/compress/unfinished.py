"""The hidden folder that a compression is made in; the user's folder gets the result once it is complete.

    OUT/.anomia-unfinished/state.json     the settings of the whole call
    OUT/.anomia-unfinished/step-N/        what step N writes, with its own hidden folder for states and measurements
    OUT/.anomia-unfinished/inputs-N.json  what a finished step N was made from, and a hash of its result

So everything that a call may delete is in the hidden folder, and whatever else is in OUT belongs to the user.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anomia.compress.in_files import REPORT
from anomia.compress.lock import LOCK, only_writer
from anomia.errors import AnomiaError, CompressionError, RefusedError
from anomia.files import read_json, write_json

UNFINISHED = ".anomia-unfinished"


def step_folder(out: Path, number: int) -> Path:
    """Return the folder in which a step is made; numbers start at 1."""
    return out / UNFINISHED / f"step-{number}"


def is_done(folder: Path) -> bool:
    """Whether a step's folder is complete: its report is written last."""
    return (folder / REPORT).is_file()


@contextmanager
def only_own_files(out: Path) -> Iterator[None]:
    """Lock the folder, and after an error remove the files and folders that this call made.

    Finished blocks are kept so that a later call can resume, unless the step was refused (`RefusedError`), which would
    happen again.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    work = out / UNFINISHED
    is_new = not work.exists()
    with only_writer(out, work):
        try:
            yield
        except AnomiaError as error:
            if isinstance(error, RefusedError) or (is_new and not _has_finished_work(work)):
                shutil.rmtree(work, ignore_errors=True)
                for folder in made:
                    with suppress(OSError):
                        # Only if nothing else is in it.
                        folder.rmdir()
            raise


def _has_finished_work(work: Path) -> bool:
    """Whether files besides the states of a begun block exist."""
    return any(
        file.is_file()
        and not file.name.endswith((".bin", ".partial"))
        and file.name not in ("state.json", LOCK)
        for file in work.rglob("*")
    ) or any((read_json(file) or {}).get("matrices") for file in work.glob(f"step-*/{UNFINISHED}/state.json"))


def open_out(out: Path, steps: int, settings: Mapping[str, Any]) -> None:
    """Begin a call in a folder, or continue the unfinished one with the same settings.

    Raises:
        CompressionError: the folder has other files, other unfinished work, or can't be written.
    """
    try:
        there = {entry.name for entry in out.iterdir()} if out.exists() else set()
    except NotADirectoryError:
        raise CompressionError(f"{out} is a file; choose a folder that doesn't exist yet") from None
    if there and UNFINISHED not in there:
        raise CompressionError(f"{out} is not empty; choose a folder that doesn't exist yet")
    # A call that was stopped while it moved its result has model files here.
    weights = sorted(name for name in there if name.endswith(".safetensors") or name == "config.json")
    if weights and not is_done(step_folder(out, steps)):
        raise CompressionError(
            f"{out} has files of a model that this compression did not write there ({_named(weights)}); move them away "
            "and run the same command again, or choose another folder"
        )
    open_step(out, settings)
    write_json(out / UNFINISHED / "state.json", {"key": _key(settings), "settings": dict(settings)})


def open_step(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of unfinished work with the same settings, or a fresh state.

    Raises:
        CompressionError: the work has other settings, or the folder can't be written.
    """
    state = read_json(folder / UNFINISHED / "state.json")
    if state is None:
        try:
            (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CompressionError(
                f"{folder} can't be written: {error.strerror}; choose another folder"
            ) from None
        return {"key": _key(settings), "settings": dict(settings), "sparsities": [], "matrices": []}
    if state.get("key") != _key(settings):
        before = state.get("settings") or {}
        other = [name for name in settings if before.get(name) != settings[name]] if before else []
        named = f" ({', '.join(other)})" if other else ""
        raise CompressionError(
            f"{folder} holds an unfinished compression with other settings{named}; repeat that command, or "
            "remove the folder"
        )
    return state


def publish(made: Path, out: Path) -> None:
    """Move the files of a complete folder into `out`, its report last, and remove the hidden folder.

    Raises:
        CompressionError: a file of the user has the same name, or a file can't be moved; nothing is lost.
    """
    names = sorted(entry.name for entry in made.iterdir() if entry.name not in (UNFINISHED, REPORT))
    taken = [name for name in (*names, REPORT) if (out / name).exists()]
    if taken:
        raise CompressionError(
            f"{out} has {_named(taken)}, which this compression did not write there; move it away and run "
            "the same command again, which moves the finished result there"
        )
    try:
        for name in (*names, REPORT):
            os.replace(made / name, out / name)
    except OSError as error:
        raise CompressionError(
            f"{out} can't be written ({error.strerror or error}); once it can, run the same command again, "
            "which moves the finished result there"
        ) from None
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)


def _named(names: Sequence[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}"


def _key(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
