"""Round token tables from one model folder to another, with a few tensors in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from anomia.compress.apply import versions, warnings_of
from anomia.compress.in_files import write_settings
from anomia.compress.left_dense import not_rounded
from anomia.compress.methods import embeddings
from anomia.compress.methods.embeddings import TokenTable
from anomia.compress.methods.ggml import format_of
from anomia.compress.pipeline import OnProgress
from anomia.compress.report import CompressionReport
from anomia.compress.shards import (
    StoredTensors,
    check_room,
    grouped,
    open_checkpoint,
    shard_name,
    write_index,
)
from anomia.compress.steps import Embeddings
from anomia.compress.verify import check_shapes
from anomia.compress.written import Written
from anomia.models.examine import Examined, look_up, read_tokenizer
from anomia.models.headers import same_values
from anomia.models.load import DTYPES
from anomia.models.tensors import skeleton


class StoredTable(NamedTuple):
    """A table in the files. names: in the model. places: in the files; two if a tied table is stored twice."""

    names: tuple[str, ...]
    places: tuple[str, ...]


def stored_tables(found: Examined) -> list[StoredTable] | None:
    """Return the token tables of a model folder; `None` if one isn't stored as the model holds it."""
    if found.account is None:
        return None
    model: Any = found.skeleton
    places = found.account.places
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    tables: dict[str, StoredTable] = {}
    for name in embeddings.table_names(model):
        first = ties.get(name, name)
        stored = (places[name],) if name in places else ()
        if first not in tables or not _is_one(found, tables[first].places, stored):
            first = name
        names, before = tables.get(first, StoredTable((), ()))
        tables[first] = StoredTable((*names, name), (*before, *(p for p in stored if p not in before)))
    return list(tables.values()) if all(table.places for table in tables.values()) else None


def _is_one(found: Examined, places: Sequence[str], others: Sequence[str]) -> bool:
    """Whether tables stored under several names have the same values; transformers doesn't tie them otherwise."""
    return all(
        same_values(one, found.stored[one], other, found.stored[other]) for one in places for other in others
    )


@torch.no_grad()
def round_tables(
    found: Examined,
    source: Path,
    out: Path,
    step: Embeddings,
    tables: Sequence[StoredTable],
    written: Written,
    *,
    dtype: str,
    progress: OnProgress | None = None,
) -> tuple[CompressionReport, int]:
    """Write the folder with rounded tables, and all other tensors bit for bit, including those that loading ignores.

    Memory holds the tensors of one new shard: 256 MiB, or one larger table. Shards that an earlier call wrote are kept.

    Returns the report, and the number of shards that existed already.

    Raises:
        CompressionError: an unknown format, or a table with NaN or infinite values; nothing was written then.
    """
    started = time.perf_counter()
    format_of(step.kind)
    checkpoint = StoredTensors(source, found.stored)
    check_room(out, checkpoint.bytes)
    groups = grouped({name: info.bytes for name, info in checkpoint.tensors.items()})
    there = [shard_name(number) in written for number in range(len(groups))]
    by_place = {place: table for table in tables for place in table.places}
    count = _counter(found.stored, tables, groups, there, progress)
    # Tables first, so that bad values are found before other tensors are written.
    order = sorted(range(len(groups)), key=lambda number: by_place.keys().isdisjoint(groups[number]))
    for number in order:
        if there[number]:
            continue
        values = checkpoint.read(groups[number], dtype=DTYPES.get(dtype))
        for place in by_place.keys() & values.keys():
            table = TokenTable(by_place[place].names, values[place])
            embeddings.check_table(table)
            embeddings.round_table(table, step.kind, count)
        written.write(shard_name(number), values)
        del values
    files = {name: shard_name(number) for number, names in enumerate(groups) for name in names}
    write_index(out, files, sum((out / file).stat().st_size for file in set(files.values())))
    write_settings(source, out, dtype=DTYPES.get(dtype))
    return _report(found, out, step, tables, checkpoint, dtype, started), sum(there)


def _counter(
    stored: Mapping[str, Any],
    tables: Sequence[StoredTable],
    groups: Sequence[Sequence[str]],
    there: Sequence[bool],
    progress: OnProgress | None,
) -> Any:
    """Make a function that adds finished rows and reports progress in rows of all tables, [rows, width] each."""
    done_places = {name for names, done in zip(groups, there, strict=True) if done for name in names}
    places = [place for table in tables for place in table.places]
    whole = sum(stored[place].shape[0] for place in places)
    done = sum(stored[place].shape[0] for place in places if place in done_places)

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, whole)

    return count


def _report(
    found: Examined,
    out: Path,
    step: Embeddings,
    tables: Sequence[StoredTable],
    checkpoint: StoredTensors,
    dtype: str,
    started: float,
) -> CompressionReport:
    """Make the report, with the zeros of the written tables, [V, H], which are read one at a time."""
    written = open_checkpoint(out)
    read_tokenizer(str(out), look_up(str(out)))
    check_shapes(out, checkpoint.tensors, written.tensors)
    matrices = []
    for table in tables:
        (value,) = written.read(table.places[:1]).values()
        matrices += embeddings.report_table(TokenTable(table.names, value), step.kind)
    assert found.account is not None
    model = skeleton(found.config, dtype=DTYPES.get(dtype) or checkpoint.stored_dtype(tables[0].places))
    return CompressionReport(
        step=str(step),
        matrices=tuple(matrices),
        seconds=time.perf_counter() - started,
        left_dense=not_rounded(model, matrices, places=found.account.places),
        warnings=(*warnings_of(step, None, matrices), *embeddings.notes(model, step.kind)),
        versions=versions(),
    )
