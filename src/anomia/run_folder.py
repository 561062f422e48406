"""The folder of a run: the names of all its files in one place, and how to read them.

    RUN/study.yaml          the study with all defaults resolved, and its provenance; it makes a folder a run
    RUN/items.parquet       the questions
    RUN/records/*.parquet   one file per finished shard
    RUN/results.json        every measure with its interval
    RUN/report/             page, figures, tables

and small JSON files, each explained at its property of `RunFolder`. A study with several cells has a `matrix.yaml` and
the runs `cells/NAME`. A path is local or an fsspec address; both have the same methods.

To add a file to runs, add a property here; if `anomia push` publishes it, add it to `RunFolder.published` too.
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

from anomia import renamed
from anomia.errors import RunError
from anomia.files import is_local, read_json, read_yaml, unwritable, write_json
from anomia.records import SCHEMA, checked, read_rows


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A file with one JSON object, written atomically."""

    path: Path

    def read(self) -> dict[str, Any] | None:
        """The object; None if the file doesn't exist."""
        return read_json(self.path)

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace the object."""
        write_json(self.path, values)


@dataclass(frozen=True, slots=True)
class JsonFiles:
    """A folder of JSON objects by key: a hash of an arm's name, or a shard's file name without its ending."""

    path: Path

    def of(self, key: str) -> JsonFile:
        """The file of a key."""
        return JsonFile(self.path / f"{key}.json")

    def of_arm(self, arm: str) -> JsonFile:
        """The file of an arm, named by a hash, since names of arms aren't valid file names."""
        return self.of(self.key_of(arm))

    @staticmethod
    def key_of(arm: str) -> str:
        """A hash of an arm's name."""
        return hashlib.sha256(arm.encode()).hexdigest()[:12]

    def files(self) -> list[JsonFile]:
        """The existing files, in the order of their keys."""
        return [JsonFile(file) for file in sorted(self.path.glob("*.json"))]

    def all(self) -> Iterator[dict[str, Any]]:
        """All objects, in the order of their keys."""
        return (file.read() or {} for file in self.files())


@dataclass(frozen=True, slots=True)
class ReportFolder:
    """The files of a report's folder."""

    path: Path

    @property
    def page(self) -> Path:
        """The page: one file that opens offline."""
        return self.path / "index.html"

    @property
    def figures(self) -> Path:
        """The folder with each figure as a file."""
        return self.path / "figures"

    @property
    def tables(self) -> Path:
        """The folder with each table in every format."""
        return self.path / "tables"


@dataclass(frozen=True, slots=True)
class LocatedFolder:
    """The files of `anomia locate` for one arm."""

    path: Path

    @property
    def result(self) -> JsonFile:
        """The result without its tables."""
        return JsonFile(self.path / "located.json")

    @property
    def parts(self) -> Path:
        """The folder of finished parts, from which a stopped call continues."""
        return self.path / "parts"

    @property
    def figures(self) -> Path:
        """The folder with each figure as a file."""
        return self.path / "figures"

    def table(self, name: str) -> Path:
        """A table of the result: units, items, readings, curve or lens."""
        return self.path / f"{name}.parquet"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of a run's folder. Creating this object reads and writes nothing."""

    path: Path

    @property
    def study_file(self) -> Path:
        """The study and its provenance, in YAML. It makes the folder a run, so it is written last."""
        return self.path / "study.yaml"

    @property
    def items_file(self) -> Path:
        """The questions, as rows of `ITEM_SCHEMA`."""
        return self.path / "items.parquet"

    @property
    def records_folder(self) -> Path:
        """The folder with the rows of finished shards."""
        return self.path / "records"

    @property
    def report_folder(self) -> Path:
        """The default folder of the report."""
        return self.path / "report"

    @property
    def matrix_file(self) -> Path:
        """The study file of a folder with several cells."""
        return self.path / "matrix.yaml"

    @property
    def log_file(self) -> Path:
        """The log of the run, one JSON object per line; only on disks."""
        return self.path / "log.jsonl"

    def answers_file(self, key: str) -> Path:
        """Base's answers to prompts that aren't measured, for calibration."""
        return self.path / "calibration" / f"answers-{key}.jsonl"

    def answers_files(self) -> list[Path]:
        """All files with base's answers that the run calibrated on."""
        return sorted(self.answers_file("").parent.glob(self.answers_file("*").name))

    @property
    def lock_file(self) -> Path:
        """Exists while a process works in the folder, and contains its id; only on disks."""
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
        """The number of base's answers that flip at another batch size and in float32."""
        return JsonFile(self.path / "noise.json")

    @property
    def stopping(self) -> JsonFile:
        """With `--until-width`: the requested width, and when and why each arm stopped."""
        return JsonFile(self.path / "stopping.json")

    @property
    def sources(self) -> JsonFile:
        """By arm, size, time and hash of the files that base and checkpoints were loaded from."""
        return JsonFile(self.path / "sources.json")

    @property
    def compression(self) -> JsonFiles:
        """By arm and languages, the report of its compression: steps, sparsity, bytes."""
        return JsonFiles(self.path / "compression")

    @property
    def served(self) -> JsonFiles:
        """By arm, what its server supported when it was first asked."""
        return JsonFiles(self.path / "served")

    @property
    def notes(self) -> JsonFiles:
        """By arm, caveats for its results."""
        return JsonFiles(self.path / "notes")

    @property
    def differences(self) -> JsonFiles:
        """By arm, its differences from base besides the weights."""
        return JsonFiles(self.path / "differences")

    @property
    def refused(self) -> JsonFiles:
        """By shard, the probes that a server refused, with reasons."""
        return JsonFiles(self.path / "refused")

    @property
    def splits(self) -> JsonFiles:
        """By shard, the batches that were halved because they didn't fit in memory."""
        return JsonFiles(self.path / "splits")

    def located(self, arm: str) -> LocatedFolder:
        """Where the damage of an arm is: the files of `anomia locate`."""
        return LocatedFolder(self.path / "locate" / JsonFiles.key_of(arm))

    @property
    def published(self) -> tuple[Path, ...]:
        """The files published unchanged, in addition to records, items, compression, results and report."""
        return (self.study_file, self.noise.path, self.arms.path, self.stopping.path)

    @property
    def is_run(self) -> bool:
        """Whether a run was started here."""
        return self.study_file.is_file()

    def check_is_run(self) -> None:
        """Refuse a folder that is not a run, and name the run that contains it, if any.

        Raises:
            RunError: there is no study.yaml.
        """
        if self.is_run:
            return
        around = self.around()
        if around is not None:
            raise RunError(f"run: {self.path} is not a run; did you mean {around.path}?")
        raise RunError(f"run: {self.path} is not an Anomia run (it has no {self.study_file.name})")

    def holds_something_else(self) -> bool:
        """Whether the path is a file, or the folder has files other than those left by a run stopped at its start."""
        items = self.items_file.name
        left = {items, f"{items}.sha256", self.lock_file.name, self.log_file.name}
        if not self.path.is_dir():
            return self.path.is_file()
        names = {entry.name for entry in self.path.iterdir()}
        # The checksum is written first.
        left -= {items} if f"{items}.sha256" not in names else set()
        return any(name not in left and not name.endswith(".part") for name in names)

    def study(self) -> dict[str, Any]:
        """The study file with its `provenance`, from any version under the names of this one, and unchecked.

        Raises:
            RunError: the file can't be read.
        """
        return renamed.settings(read_yaml(self.study_file))

    def provenance(self) -> dict[str, Any]:
        """Facts recorded when the run started: dtype, batch size, versions, fingerprints; empty if there are none."""
        return dict(self.study().get("provenance") or {})

    def record_file(self, key: str) -> Path:
        """The file with the rows of a shard or of an imported model, by its key."""
        return self.records_folder / f"{key}.parquet"

    def record_files(self) -> list[Path]:
        """The existing files with rows, sorted by name."""
        return sorted(self.records_folder.glob("*.parquet"))

    def records(self) -> pl.DataFrame:
        """All finished rows, sorted by arm, data set, language and index.

        Raises:
            RunError: there are none, a file is damaged or has other content, or an item has two records of one arm.
        """
        files = self.record_files()
        if not files:
            raise RunError(f"run: {self.path} has no records; is it the folder that was given as --out?")
        frames = [checked(read_rows(file), file) for file in files]
        # Start with the schema, so that columns missing from older versions become null.
        frame = pl.concat([pl.DataFrame(schema=SCHEMA), *frames], how="diagonal")
        if frame.select("arm", "dataset", "language", "item_id").is_duplicated().any():
            raise RunError(
                f"run: {self.path} has two records of one item and arm; remove the record files put into it"
            )
        return frame.sort("arm", "dataset", "language", "index")

    @property
    def has_items(self) -> bool:
        """Whether the questions are stored; imports of earlier versions didn't write them."""
        return self.items_file.is_file()

    def items(self) -> pl.DataFrame:
        """The questions.

        Raises:
            RunError: the file doesn't exist or is damaged.
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
        """The run that contains this folder, or None."""
        runs = (RunFolder(parent) for parent in list(self.path.parents)[:3])
        return next((run for run in runs if run.is_run and run.records_folder.is_dir()), None)


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """The files of one or several runs as a data set, which `anomia push` publishes."""

    path: Path

    @property
    def whole(self) -> RunFolder:
        """What covers all of its runs: the report, and the study file of several cells."""
        return RunFolder(self.path)

    @property
    def card(self) -> Path:
        """The data set card."""
        return self.path / "README.md"

    def run(self, name: str) -> RunFolder:
        """The study, results and small files of a run."""
        return RunFolder(self.path / "runs" / name)

    def rows(self, name: str) -> dict[str, Path]:
        """The files with a run's rows, by the name of their part of the data set; each has a folder of its own."""
        whole = self.whole
        return {
            "records": whole.record_file(name),
            "items": whole.items_file.with_suffix("") / f"{name}.parquet",
        }

    @property
    def patterns(self) -> dict[str, str]:
        """The rows of all runs as patterns relative to the data set, by the name of their part."""
        return {part: file.relative_to(self.path).as_posix() for part, file in self.rows("*").items()}


def runs_of(path: Path) -> list[Path]:
    """The runs in a folder: the folder itself, or each started cell of a study with several cells.

    Raises:
        RunError: no cell was started.
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
    """Keep other processes out of a run folder. The lock is released if the process dies.

    Creates the folder, and removes what it created if nothing was written into it. Does nothing for remote addresses,
    which have no locks.

    Raises:
        RunError: another process is working in the folder, or it can't be created.
    """
    if not is_local(path):
        yield
        return
    if path.is_file():
        raise RunError(f"run: {path} is a file; --out takes a folder, which is created if it doesn't exist")
    folder = RunFolder(path)
    file = folder.lock_file
    made = [each for each in (path, *path.parents) if not each.exists()]
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
        # For the message to other processes; a full disk may leave the file empty.
        with suppress(OSError):
            file.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        # Unlink before the release: filelock notices if a file that it opened is gone.
        with suppress(OSError):
            file.unlink()
        lock.release()
        if made and {entry.name for entry in path.iterdir()} <= {folder.log_file.name}:
            folder.log_file.unlink(missing_ok=True)
            for each in made:
                with suppress(OSError):
                    each.rmdir()
