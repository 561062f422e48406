"""Batch-size sensitivity: how many of base's answers flip when only the batch size (or the dtype) changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from anomia.items import ItemSet
from anomia.probe.ask import Ask
from anomia.probe.encode import EncodedItem
from anomia.probe.precision import fits_float32
from anomia.probes import BY_NAME, FORMATS
from anomia.records import record
from anomia.running.alike import today_of
from anomia.running.answerer import LocalModel
from anomia.running.cells import OpenCell
from anomia.running.folder import OpenedRun, shards_of
from anomia.running.model import load
from anomia.running.progress import Progress
from anomia.running.shard import decoding, encode
from anomia.study import BASE, Study

# The grades and texts to compare, with their columns in the records.
FLIPS = {name: BY_NAME[name].column for name in FORMATS} | {"open_text": "open_text"}


def lacks_noise(run: OpenedRun) -> bool:
    """Whether the batch-size sensitivity was requested and has not been measured yet."""
    return _has_noise(run.study) and run.folder.noise.read() is None


def _has_noise(study: Study) -> bool:
    """Whether anything is asked again. Long answers are not; a null arm shows their noise."""
    return study.noise_items > 0 and set(FORMATS) <= set(study.probes)


def measure_noise(cell: OpenCell, base: LocalModel, progress: Progress) -> None:
    """Asks a few items again at another batch size; answers that flip do so because of rounding alone.

    If base runs in half precision on a CPU and float32 fits, the items are also asked in float32, which shows how many
    answers half precision flips.
    """
    run, study, item_sets = cell.run, cell.study, cell.item_sets
    count = min(study.noise_items, sum(len(items.items) for items in item_sets))
    if not count or not _has_noise(study) or run.folder.noise.read() is not None:
        return
    usual = int(run.provenance["batch_size"])
    size = max(1, usual // 2) if usual > 1 else 2
    turns = [(items, index) for index in range(count) for items in item_sets if index < len(items.items)][
        :count
    ]
    # Encode every probe of the study first: the other probes also affect how passages are cut.
    encoded = [
        _open_and_choice(
            encode(
                study,
                items.items[index],
                items,
                base.tokenizer,
                positions=base.positions,
                oracle=False,
                today=today_of(run),
            )
        )
        for items, index in turns
    ]
    first = _rows_by_item(run, study, item_sets)

    def flips(asked: LocalModel, size: int, what: str) -> dict[str, Any]:
        progress.stage(f"{cell.label}batch-size sensitivity: {count} items again {what}", count)
        by_language = {items.language: dict.fromkeys(("items", *FLIPS), 0) for items, _ in turns}
        answers = asked.answer(encoded, decoding(study), batch_size=size, on_tokens=progress.tokens)
        for (items, index), item, (reply, said) in zip(turns, encoded, answers, strict=True):
            again = record(item, reply, said, base.tokenizer, arm=BASE, dataset=items.dataset, index=index)
            before = first[items.language, item.item.question.id]
            counts = by_language[items.language]
            counts["items"] += 1
            for name, column in FLIPS.items():
                counts[name] += again[column] != before[column]
            progress.advance()
        in_all = {name: sum(counts[name] for counts in by_language.values()) for name in FLIPS}
        return {"items": count, "flips": in_all, "languages": by_language}

    found = {"batch_size": size, **flips(base, size, f"at batch size {size}")}
    exact = in_float32(study, base, progress)
    if exact is not None:
        found["dtype"] = {"dtype": "float32", **flips(exact, usual, "in float32")}
    run.folder.noise.write(found)


def _open_and_choice(encoded: EncodedItem) -> EncodedItem:
    """Reduces an item to its open and choice questions."""
    asked = encoded.ask
    only = Ask(
        item_id=asked.item_id,
        greedy={name: prompt for name, prompt in asked.greedy.items() if name in FORMATS},
        options={name: options for name, options in asked.options.items() if name in FORMATS},
    )
    return dataclasses.replace(encoded, ask=only)


def in_float32(study: Study, base: LocalModel, progress: Progress) -> LocalModel | None:
    """Base in float32, as in `null:float32`; None if it already is, isn't on a CPU, or doesn't fit into memory."""
    if not fits_float32(base.loaded.model):
        return None
    return dataclasses.replace(base, loaded=load(study, base.name, progress, "float32"))


def _rows_by_item(
    run: OpenedRun, study: Study, item_sets: Sequence[ItemSet]
) -> Mapping[tuple[str, str], dict[str, Any]]:
    columns = ["item_id", *FLIPS.values()]
    rows = {}
    for items in item_sets:
        for shard in shards_of(BASE, items, oracle_limit=study.oracle_limit):
            for row in run.rows(shard, columns).iter_rows(named=True):
                rows[items.language, row["item_id"]] = row
    return rows
