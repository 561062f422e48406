"""The folder of a started run: the study it belongs to, and its finished shards."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from anomia.errors import RunError
from anomia.files import is_local, set_aside
from anomia.items.item import ItemSet
from anomia.records import ITEM_SCHEMA, is_sound, item_rows, read_rows, write_rows
from anomia.run_folder import RunFolder
from anomia.study import Study, write_study

SHARD_ITEMS = 32
# As `files.write_bytes` names them.
_PARTIAL = re.compile(r"\..+\.\d+\.part")


@dataclass(frozen=True, slots=True)
class Shard:
    """Items `first` to `last` (exclusive) of one language, asked of one arm."""

    arm: str
    dataset: str
    language: str
    first: int
    last: int

    @property
    def key(self) -> str:
        """The name of its files; unique among the arms, data sets and languages of a study."""
        parts = (self.arm, self.dataset, self.language)
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
        return ".".join([*(_slug(part) for part in parts), digest, f"{self.first:06d}"])


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A started run. `provenance`: facts recorded at its start (batch size, fingerprints, versions)."""

    folder: RunFolder
    study: Study
    provenance: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.folder.path

    def record_file(self, shard: Shard) -> Path:
        """The file for the rows of a finished shard."""
        return self.folder.record_file(shard.key)

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard is finished."""
        return self.record_file(shard).is_file()

    def rows(self, shard: Shard, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of a finished shard."""
        return read_rows(self.record_file(shard), columns)


def open_run(path: Path, study: Study) -> OpenedRun | None:
    """Opens the run in a folder; None if there is none yet.

    Raises:
        RunError: the folder contains another study, or something else.
    """
    folder = RunFolder(path)
    if not folder.is_run:
        if folder.holds_something_else():
            raise RunError(f"run: {path} exists and is not an Anomia run; give another --out")
        return None
    file, found = folder.study_file, folder.study()
    provenance = found.pop("provenance", None)
    if not isinstance(provenance, dict) or "batch_size" not in provenance:
        raise RunError(f"run: {file} was not written by a run (it has no provenance); give another --out")
    asked = study.model_dump(mode="json")
    # A setting that the file doesn't name had its default, as long as it didn't exist.
    whole = _defaults() | found
    differing = [key for key in asked if whole.get(key) != asked[key]]
    if differing:
        raise RunError(
            f"run: {path} holds a different study (it differs in {', '.join(differing)}); "
            "give another --out, or run the study of that folder: anomia run "
            f"{file} --out {path}"
        )
    return OpenedRun(folder, study, provenance)


def _defaults() -> dict[str, Any]:
    """The settings' default values as a study file writes them."""
    return Study(base="base", arms=("magnitude:0.5",)).model_dump(mode="json", exclude={"base", "arms"})


def check_same(run: OpenedRun, item_sets: Sequence[ItemSet]) -> None:
    """Refuses to resume a run whose questions have changed.

    Raises:
        RunError: the data set yields different items than at the run's start.
    """
    before = read_rows(run.folder.items_file)
    now = pl.DataFrame([row for items in item_sets for row in item_rows(items)], schema=ITEM_SCHEMA)
    if not is_same_items(before, now):
        raise RunError(
            f"run: {run.path} was started with different questions than {run.study.data} gives now; "
            "restore the data, or give another --out"
        )


def is_same_items(before: pl.DataFrame, now: pl.DataFrame) -> bool:
    """Whether two tables hold the same items; a column that an earlier version didn't write had no values."""
    added = [name for name in now.columns if name not in before.columns]
    if not all(now[name].is_null().all() for name in added):
        return False
    return before.equals(now.drop(added), null_equal=True)


def set_damaged_aside(run: OpenedRun, shards: Iterable[Shard]) -> list[Path]:
    """Renames every record file with a wrong or missing checksum, or that belongs to no shard of this study.

    Returns the new names; the shards of those files count as unfinished. Runs started before checksums existed keep
    their files without one. Partial files left by a killed process are removed.
    """
    mine = {run.record_file(shard) for shard in shards}
    checked = bool(run.provenance.get("checksums"))
    found = []
    for file in run.folder.record_files():
        if file not in mine or (checked and not is_sound(file)):
            found.append(set_aside(file))
    if is_local(run.path):
        for half in run.path.rglob(".*.part"):
            if _PARTIAL.fullmatch(half.name):
                half.unlink(missing_ok=True)
    return found


def begin_run(
    path: Path, study: Study, item_sets: Sequence[ItemSet], provenance: Mapping[str, Any]
) -> OpenedRun:
    """Creates a run folder: writes the items, then the study, which marks it as a run."""
    folder = RunFolder(path)
    provenance = {**provenance, "checksums": True}
    rows = [row for items in item_sets for row in item_rows(items)]
    write_rows(rows, folder.items_file, ITEM_SCHEMA)
    write_study(study, folder.study_file, provenance)
    return OpenedRun(folder, study, provenance)


def shards_of(arm: str, items: ItemSet, *, oracle_limit: int) -> list[Shard]:
    """The shards of one language. No shard mixes items with and without beams and samples."""
    edges = sorted(
        {*range(0, len(items.items), SHARD_ITEMS), min(oracle_limit, len(items.items)), len(items.items)}
    )
    return [
        Shard(arm, items.dataset, items.language, first, last)
        for first, last in itertools.pairwise(edges)
        if first < last
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:48] or "x"
