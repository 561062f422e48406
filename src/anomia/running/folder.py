"""The folder of a run: which study it belongs to, which shards are done, where results go."""

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
from anomia.files import LOCK, LOG, is_local, read_json, read_yaml, set_aside, write_json
from anomia.items.item import ItemSet
from anomia.records import ITEM_SCHEMA, is_sound, item_rows, read_rows, write_rows
from anomia.study import Study, write_study

SHARD_ITEMS = 32
MATRIX = "matrix.yaml"
# What a run that was stopped while it began has left.
_BEGUN = {"items.parquet", "items.parquet.sha256", LOCK, LOG}


@dataclass(frozen=True, slots=True)
class Shard:
    """Items `first` to `last` (excluded) of one language, asked of one arm."""

    arm: str
    dataset: str
    language: str
    first: int
    last: int

    @property
    def file_name(self) -> str:
        """Unique among the arms, data sets and languages of a study."""
        parts = (self.arm, self.dataset, self.language)
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
        return ".".join([*(_slug(part) for part in parts), digest, f"{self.first:06d}", "parquet"])


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run on disk. `provenance` is what was found out when it began (batch size, fingerprints, versions)."""

    path: Path
    study: Study
    provenance: Mapping[str, Any]

    def record_file(self, shard: Shard) -> Path:
        """Where the rows of a shard stand once it is finished."""
        return self.path / "records" / shard.file_name

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard is finished."""
        return self.record_file(shard).is_file()

    def rows(self, shard: Shard, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of a finished shard."""
        return read_rows(self.record_file(shard), columns)

    def note(self, name: str, values: Mapping[str, Any]) -> None:
        """Writes a small JSON file of the run."""
        write_json(self.path / name, values)

    def noted(self, name: str) -> dict[str, Any] | None:
        """Reads a file written by `note`; None where there is none."""
        return read_json(self.path / name)


def open_run(path: Path, study: Study) -> RunFolder | None:
    """The run that a folder already holds; None where there is none yet.

    Raises:
        RunError: the folder holds another study, or something else.
    """
    file = path / "study.yaml"
    if not file.is_file():
        strange = path.is_dir() and any(
            entry.name not in _BEGUN and not entry.name.endswith(".part") for entry in path.iterdir()
        )
        if path.is_file() or strange:
            raise RunError(f"run: {path} exists and is no run of Anomia; give another --out")
        return None
    found = read_yaml(file)
    provenance = found.pop("provenance", None)
    if not isinstance(provenance, dict) or "batch_size" not in provenance:
        raise RunError(f"run: {file} was not written by a run (it has no provenance); give another --out")
    asked = study.model_dump(mode="json")
    differing = [key for key in asked if found.get(key) != asked[key]]
    if differing:
        raise RunError(
            f"run: {path} holds another study (it differs in {', '.join(differing)}); "
            "give another --out, or run the study of that folder: anomia run "
            f"{file} --out {path}"
        )
    return RunFolder(path, study, provenance)


def check_same(folder: RunFolder, item_sets: Sequence[ItemSet]) -> None:
    """Refuses to go on with a run whose questions have changed under it.

    Raises:
        RunError: the data set gives other items than when the run began.
    """
    before = read_rows(folder.path / "items.parquet")
    now = pl.DataFrame([row for items in item_sets for row in item_rows(items)], schema=ITEM_SCHEMA)
    if not before.equals(now, null_equal=True):
        raise RunError(
            f"run: {folder.path} was begun with other questions than {folder.study.data} gives now; "
            "restore the data, or give another --out"
        )


def set_damaged_aside(folder: RunFolder, shards: Iterable[Shard]) -> list[Path]:
    """Renames every record file whose checksum is wrong or missing, or that is of no shard of this study.

    Returns the new names; the shards of those files count as not done. Runs that were begun before there were
    checksums keep files without one. What a killed process left half written is removed.
    """
    mine = {shard.file_name for shard in shards}
    checked = bool(folder.provenance.get("checksums"))
    records = folder.path / "records"
    found = []
    for file in sorted(records.glob("*.parquet")):
        if file.name not in mine or (checked and not is_sound(file)):
            found.append(set_aside(file))
    if is_local(folder.path):
        for half in folder.path.rglob(".*.part"):
            half.unlink(missing_ok=True)
    return found


def begin_run(
    path: Path, study: Study, item_sets: Sequence[ItemSet], provenance: Mapping[str, Any]
) -> RunFolder:
    """Makes a run folder: the items, then the study, which makes it a run."""
    provenance = {**provenance, "checksums": True}
    rows = [row for items in item_sets for row in item_rows(items)]
    write_rows(rows, path / "items.parquet", ITEM_SCHEMA)
    write_study(study, path / "study.yaml", provenance)
    return RunFolder(path, study, provenance)


def runs_of(path: Path) -> list[Path]:
    """The runs in a folder: itself, or, of a study with several cells, each cell that has begun.

    Raises:
        RunError: none of its cells has begun.
    """
    if not (path / MATRIX).is_file():
        return [path]
    names = read_yaml(path / MATRIX).get("cells") or []
    runs = [path / "cells" / str(name) for name in names]
    begun = [run for run in runs if (run / "study.yaml").is_file()]
    if not begun:
        raise RunError(f"run: no cell of {path} has begun yet; run its study")
    return begun


def shards_of(arm: str, items: ItemSet, *, reach_limit: int) -> list[Shard]:
    """The shards of one language; none mixes items with and without beams and samples."""
    edges = sorted(
        {*range(0, len(items.items), SHARD_ITEMS), min(reach_limit, len(items.items)), len(items.items)}
    )
    return [
        Shard(arm, items.dataset, items.language, first, last)
        for first, last in itertools.pairwise(edges)
        if first < last
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:48] or "x"
