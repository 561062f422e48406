"""The folder of a run: the name of everything in it, in one place, and what reading it back gives.

    RUN/study.yaml          the study with every default resolved, and its provenance: it makes a folder a run
    RUN/items.parquet       the questions
    RUN/records/*.parquet   one file per finished shard
    RUN/results.json        every measure with its interval
    RUN/report/             page, figures, tables

and small JSON files, each explained at its property of `RunFolder`. A study with several cells has a `matrix.yaml` and
the runs `cells/NAME`. A path is local or an fsspec address; both have the same methods.

A new file of a run is a property here. Where `anomia push` passes it on it also goes into `RunFolder.published`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock, Timeout

from anomia.errors import RunError
from anomia.files import is_local, read_json, read_yaml, unwritable, write_json
from anomia.records import SCHEMA, checked, read_rows


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A JSON object in a file of its own, written whole or not at all."""

    path: Path

    def read(self) -> dict[str, Any] | None:
        """The object; None where there is no file."""
        return read_json(self.path)

    def write(self, values: Mapping[str, Any]) -> None:
        """Replaces the object."""
        write_json(self.path, values)


@dataclass(frozen=True, slots=True)
class JsonFiles:
    """A folder of JSON objects, each under a key: an arm's (`arm_key`), or a shard's file name without its ending."""

    path: Path

    def of(self, key: str) -> JsonFile:
        """The object of a key."""
        return JsonFile(self.path / f"{key}.json")

    def of_arm(self, arm: str) -> JsonFile:
        """The object of an arm. Names of arms are not names of files, so a hash of theirs is."""
        return self.of(hashlib.sha256(arm.encode()).hexdigest()[:12])

    def files(self) -> list[JsonFile]:
        """The objects that there are, in the order of their keys."""
        return [JsonFile(file) for file in sorted(self.path.glob("*.json"))]

    def all(self) -> Iterator[dict[str, Any]]:
        """What they hold."""
        return (file.read() or {} for file in self.files())


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Everything that a run's folder may hold. Nothing is read or made before it is asked for."""

    path: Path

    @property
    def study_file(self) -> Path:
        """The study and its provenance, in YAML: written last, so that it makes the folder a run."""
        return self.path / "study.yaml"

    @property
    def items_file(self) -> Path:
        """The questions, as rows of `ITEM_SCHEMA`."""
        return self.path / "items.parquet"

    @property
    def records_folder(self) -> Path:
        """Where the rows of finished shards are."""
        return self.path / "records"

    @property
    def report_folder(self) -> Path:
        """Where the report is written unless another place is named."""
        return self.path / "report"

    @property
    def matrix_file(self) -> Path:
        """Of a folder with several cells, their study file."""
        return self.path / "matrix.yaml"

    @property
    def log_file(self) -> Path:
        """What the run told while it worked, one JSON object per line; on disks only."""
        return self.path / "log.jsonl"

    @property
    def lock_file(self) -> Path:
        """There while a process is working in the folder, and holds its id; on disks only."""
        return self.path / ".lock"

    @property
    def results(self) -> JsonFile:
        """Every measure with its interval (`measure.schema.ResultsFile`)."""
        return JsonFile(self.path / "results.json")

    @property
    def arms(self) -> JsonFile:
        """By arm, `failed`: why it could not be measured to the end, or null."""
        return JsonFile(self.path / "arms.json")

    @property
    def noise(self) -> JsonFile:
        """How many verdicts flip at another batch size, and in float32."""
        return JsonFile(self.path / "noise.json")

    @property
    def stopping(self) -> JsonFile:
        """With `--until-width`: the width asked for, and when and why each arm stopped."""
        return JsonFile(self.path / "stopping.json")

    @property
    def sources(self) -> JsonFile:
        """By arm, size, time and hash of the files that base and checkpoints were loaded from."""
        return JsonFile(self.path / "sources.json")

    @property
    def compression(self) -> JsonFiles:
        """By arm and languages, what compression did: steps, sparsity, bytes."""
        return JsonFiles(self.path / "compression")

    @property
    def served(self) -> JsonFiles:
        """By arm, what a server could tell when it was first asked."""
        return JsonFiles(self.path / "served")

    @property
    def notes(self) -> JsonFiles:
        """By arm, what a reader of its figures should know."""
        return JsonFiles(self.path / "notes")

    @property
    def differences(self) -> JsonFiles:
        """By arm, what differs from base besides the weights."""
        return JsonFiles(self.path / "differences")

    @property
    def refused(self) -> JsonFiles:
        """By shard, the probes that a server would not answer, and its reasons."""
        return JsonFiles(self.path / "refused")

    @property
    def splits(self) -> JsonFiles:
        """By shard, the batches that were halved because they didn't fit into memory."""
        return JsonFiles(self.path / "splits")

    @property
    def published(self) -> tuple[Path, ...]:
        """What a copy for others takes over as it is, besides records, items, compression, results and report."""
        return (self.study_file, self.noise.path, self.arms.path, self.stopping.path)

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return self.study_file.is_file()

    def holds_something_else(self) -> bool:
        """Whether there is a file of this name, or anything that a run which was stopped while it began doesn't leave."""
        items = self.items_file.name
        left = {items, f"{items}.sha256", self.lock_file.name, self.log_file.name}
        if not self.path.is_dir():
            return self.path.is_file()
        return any(
            entry.name not in left and not entry.name.endswith(".part") for entry in self.path.iterdir()
        )

    def study(self) -> dict[str, Any]:
        """The study as it was written, `provenance` included: of any version, and unchecked.

        Raises:
            RunError: it can't be read.
        """
        return read_yaml(self.study_file)

    def provenance(self) -> dict[str, Any]:
        """What was found out when the run began: dtype, batch size, versions, fingerprints; empty where nothing was."""
        return dict(self.study().get("provenance") or {})

    def record_file(self, key: str) -> Path:
        """The rows of a shard, or of an imported model, under its key."""
        return self.records_folder / f"{key}.parquet"

    def record_files(self) -> list[Path]:
        """The files that hold rows, in the order of their names."""
        return sorted(self.records_folder.glob("*.parquet"))

    def records(self) -> pl.DataFrame:
        """All finished rows, by arm, data set, language and index.

        Raises:
            RunError: there are none, or a file is damaged or holds something else.
        """
        files = self.record_files()
        if not files:
            raise RunError(f"run: {self.path} has no records; is it the folder that was given as --out?")
        frames = [checked(read_rows(file), file) for file in files]
        # The schema first: what an older version did not record is null.
        frame = pl.concat([pl.DataFrame(schema=SCHEMA), *frames], how="diagonal")
        if frame.select("arm", "dataset", "language", "item_id").is_duplicated().any():
            raise RunError(
                f"run: {self.path} has two records of one item and arm; remove the record files put into it"
            )
        return frame.sort("arm", "dataset", "language", "index")

    @property
    def has_items(self) -> bool:
        """Whether the questions are here: an import of an earlier version wrote none."""
        return self.items_file.is_file()

    def items(self) -> pl.DataFrame:
        """The questions.

        Raises:
            RunError: there are none, or the file is damaged.
        """
        if not self.has_items:
            raise RunError(
                f"run: {self.path} has no {self.items_file.name}; is it the folder that was given as --out?"
            )
        return read_rows(self.items_file)

    def cell(self, name: str) -> RunFolder:
        """The run of a cell."""
        return RunFolder(self.path / "cells" / name)

    def around(self) -> RunFolder | None:
        """The run that this folder lies in, where there is one."""
        runs = (RunFolder(parent) for parent in list(self.path.parents)[:3])
        return next((run for run in runs if run.is_run and run.records_folder.is_dir()), None)


def runs_of(path: Path) -> list[Path]:
    """The runs in a folder: itself, or, of a study with several cells, each cell that has begun.

    Raises:
        RunError: none of its cells has begun.
    """
    folder = RunFolder(path)
    if not folder.matrix_file.is_file():
        return [path]
    cells = [folder.cell(str(name)) for name in read_yaml(folder.matrix_file).get("cells") or []]
    begun = [cell.path for cell in cells if cell.is_run]
    if not begun:
        raise RunError(f"run: no cell of {path} has been started yet; run its study")
    return begun


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out of a run folder. A process that dies, however, lets go of it.

    The folder is made; where nothing was written into it, it is gone again at the end. On addresses that know
    no locks nothing is kept out.

    Raises:
        RunError: another process is working in the folder, or it can't be made.
    """
    if not is_local(path):
        yield
        return
    if path.is_file():
        raise RunError(f"run: {path} is a file; --out takes a folder, which is created if it doesn't exist")
    folder = RunFolder(path)
    file = folder.lock_file
    made = not path.exists()
    lock = FileLock(file, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        owner = file.read_text(encoding="utf-8").strip()
        who = f" (process {owner})" if owner.isdecimal() else ""
        raise RunError(
            f"run: another anomia{who} is working in {path}; wait until it ends, or give another --out"
        ) from None
    except OSError as error:
        raise RunError(unwritable(file, error)) from None
    try:
        # For the message of the one who is kept out; a full disk may leave it empty.
        with suppress(OSError):
            file.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        # While it is still held: who opened it meanwhile sees that it is gone (filelock looks).
        with suppress(OSError):
            file.unlink()
        lock.release()
        if made and {entry.name for entry in path.iterdir()} <= {folder.log_file.name}:
            folder.log_file.unlink(missing_ok=True)
            path.rmdir()
