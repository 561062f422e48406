"""The folder of a run: which study it belongs to, which shards are done, where results go."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from anomia.errors import RunError
from anomia.files import read_json, read_yaml, write_json
from anomia.items.item import ItemSet
from anomia.records import ITEM_SCHEMA, item_rows, write_rows
from anomia.study import Study, write_study

SHARD_ITEMS = 32


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
        # A run that was stopped while it began has its items and no study yet.
        begun = {"items.parquet"}
        strange = path.is_dir() and any(
            entry.name not in begun and not entry.name.endswith(".part") for entry in path.iterdir()
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
    before = pl.read_parquet(folder.path / "items.parquet")
    now = pl.DataFrame([row for items in item_sets for row in item_rows(items)], schema=ITEM_SCHEMA)
    if not before.equals(now, null_equal=True):
        raise RunError(
            f"run: {folder.path} was begun with other questions than {folder.study.data} gives now; "
            "restore the data, or give another --out"
        )


def begin_run(
    path: Path, study: Study, item_sets: Sequence[ItemSet], provenance: Mapping[str, Any]
) -> RunFolder:
    """Makes a run folder: the items, then the study, which makes it a run."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        rows = [row for items in item_sets for row in item_rows(items)]
        write_rows(rows, path / "items.parquet", ITEM_SCHEMA)
        write_study(study, path / "study.yaml", provenance)
    except OSError as error:
        raise RunError(f"run: {path} can't be written: {error.strerror or error}") from None
    return RunFolder(path, study, provenance)


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
