"""Attribution of a few items at a time; finished parts are stored and read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from anomia.locate.attribution import (
    Attribution,
    Way,
    attribute,
    choose_way,
)
from anomia.locate.cases import LocatedItem
from anomia.locate.lens import LENS_SCHEMA, Lens
from anomia.locate.located import LocateOptions
from anomia.locate.prepare import Subjects
from anomia.records import read_rows, write_rows
from anomia.running.progress import Progress

CHUNK = 8
"""Items attributed together: the most that a stopped attribution repeats."""
SHARES_SCHEMA: Mapping[str, Any] = {
    "item": pl.Int32,
    "unit": pl.String,
    "gold": pl.Float64,
    "control": pl.Float64,
    "moved": pl.Float64,
}
ENDS_SCHEMA: Mapping[str, Any] = {
    "item": pl.Int32,
    "compressed": pl.Float64,
    "base": pl.Float64,
    "control_compressed": pl.Float64,
    "control_base": pl.Float64,
}


def attribute_cases(
    subjects: Subjects,
    cases: Sequence[LocatedItem],
    options: LocateOptions,
    progress: Progress,
    parts: Path | None,
) -> tuple[Attribution, pl.DataFrame]:
    """The attribution of all cases and the rows of the lens, a few items at a time; finished ones are read back."""
    pair = subjects.pair
    chunks = [cases[first : first + CHUNK] for first in range(0, len(cases), CHUNK)]
    progress.stage("attribution", len(chunks))
    way: Way | None = None
    found, seen = [], []
    for number, chunk in enumerate(chunks):
        asked = [case.subject for case in chunk]
        file = None if parts is None else parts / f"attribution-{_key([options.points, asked])}.parquet"
        stored = None if file is None else _stored(file, pair.names, options.points)
        if stored is None:
            way = way or choose_way(pair, [case.gold.prefix for case in cases])
            lens = Lens(pair, asked)
            one = attribute(pair, asked, points=options.points, way=way, observe=lens if lens.fits else None)
            rows = pl.DataFrame(lens.rows, schema=dict(LENS_SCHEMA), orient="row")
            if file is not None:
                _store(file, one, rows)
            stored = one, rows
        found.append(stored[0])
        seen.append(stored[1].with_columns(pl.col("item") + number * CHUNK))
        progress.advance()
    return _joined(found), pl.concat(seen)


def _joined(found: Sequence[Attribution]) -> Attribution:
    """The attributions of several lists of items, one after the other."""
    arrays = {
        name: np.concatenate([getattr(each, name) for each in found])
        for name in ("gold", "control", "ends", "control_ends", "moved")
    }
    return Attribution(
        units=found[0].units,
        points=found[0].points,
        by_gradient=tuple(sorted({name for each in found for name in each.by_gradient})),
        **arrays,
    )


def _key(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]


def _store(file: Path, found: Attribution, lens: pl.DataFrame) -> None:
    """Store shares [items, units], margins at both ends [items, 2], and the rows of the lens, in three files."""
    items, units = found.gold.shape
    rows = pl.DataFrame(
        {
            "item": np.repeat(np.arange(items, dtype=np.int32), units),
            "unit": list(found.units) * items,
            **{name: getattr(found, name).reshape(-1) for name in ("gold", "control", "moved")},
        }
    )
    ends = pl.DataFrame(
        {
            "item": np.arange(items, dtype=np.int32),
            "compressed": found.ends[:, 0],
            "base": found.ends[:, 1],
            "control_compressed": found.control_ends[:, 0],
            "control_base": found.control_ends[:, 1],
        }
    )
    write_rows(lens.iter_rows(named=True), file.with_suffix(".lens.parquet"), LENS_SCHEMA)
    write_rows(ends.iter_rows(named=True), file.with_suffix(".ends.parquet"), ENDS_SCHEMA)
    # Last, because its presence means that the others are there.
    write_rows(rows.iter_rows(named=True), file, SHARES_SCHEMA)


def _stored(file: Path, units: tuple[str, ...], points: int) -> tuple[Attribution, pl.DataFrame] | None:
    """A stored attribution with the rows of the lens; None if there is none."""
    if not file.is_file():
        return None
    rows, ends = read_rows(file), read_rows(file.with_suffix(".ends.parquet"))
    size = (len(ends), len(units))
    if len(rows) != size[0] * size[1] or tuple(rows["unit"][: len(units)]) != units:
        return None
    found = Attribution(
        units=units,
        gold=rows["gold"].to_numpy().reshape(size),
        control=rows["control"].to_numpy().reshape(size),
        ends=ends.select("compressed", "base").to_numpy(),
        control_ends=ends.select("control_compressed", "control_base").to_numpy(),
        moved=rows["moved"].to_numpy().reshape(size),
        points=points,
    )
    return found, read_rows(file.with_suffix(".lens.parquet"))
