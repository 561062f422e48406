"""The noise floor: what another batch size alone changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anomia.items import ItemSet
from anomia.probe.encode import Form, encode_item
from anomia.records import record
from anomia.running.cells import CellRun
from anomia.running.folder import RunFolder, shards_of
from anomia.running.model import Ready
from anomia.running.progress import Progress
from anomia.running.shard import ask
from anomia.study import BASE, Study

# What is compared, and the records' columns for it.
FLIPS = {"open": "open_correct", "choice": "choice_correct", "open_text": "open_text"}


def lacks_noise(folder: RunFolder) -> bool:
    """Whether the noise floor was asked for and is not measured yet."""
    return folder.study.noise_items > 0 and folder.noted("noise.json") is None


def measure_noise(cell: CellRun, ready: Ready, progress: Progress) -> None:
    """Asks a few items again at another batch size: verdicts that flip are what rounding alone does."""
    folder, study, item_sets, loaded = cell.folder, cell.study, cell.item_sets, ready.loaded
    assert folder is not None
    count = min(study.noise_items, sum(len(items.items) for items in item_sets))
    if not count or folder.noted("noise.json") is not None:
        return
    size = (
        max(1, int(folder.provenance["batch_size"]) // 2) if int(folder.provenance["batch_size"]) > 1 else 2
    )
    progress.stage(f"{cell.label}noise floor: {count} items again at batch size {size}", count)
    turns = [(items, index) for index in range(count) for items in item_sets if index < len(items.items)][
        :count
    ]
    by_language = {items.language: dict.fromkeys(("items", *FLIPS), 0) for items, _ in turns}
    form = Form(
        chat=study.chat,
        prompt_tokens=study.prompt_tokens,
        templates=study.templates,
        grading=study.grading,
    )
    encoded = [
        encode_item(
            items.items[index], loaded.tokenizer, form, ("open", "choice"), exemplar=None, reach=False
        )
        for items, index in turns
    ]
    first = _rows_by_item(folder, study, item_sets)
    replies = ask(cell, encoded, ready, size=size)
    for (items, index), item, reply in zip(turns, encoded, replies, strict=True):
        again = record(item, reply, loaded.tokenizer, arm=BASE, dataset=items.dataset, index=index)
        before = first[items.language, item.item.question.id]
        counts = by_language[items.language]
        counts["items"] += 1
        for name, column in FLIPS.items():
            counts[name] += again[column] != before[column]
        progress.advance()
    flips = {name: sum(counts[name] for counts in by_language.values()) for name in FLIPS}
    folder.note("noise.json", {"items": count, "batch_size": size, "flips": flips, "languages": by_language})


def _rows_by_item(
    folder: RunFolder, study: Study, item_sets: Sequence[ItemSet]
) -> Mapping[tuple[str, str], dict[str, Any]]:
    columns = ["item_id", *FLIPS.values()]
    rows = {}
    for items in item_sets:
        for shard in shards_of(BASE, items, reach_limit=study.reach_limit):
            for row in folder.rows(shard, columns).iter_rows(named=True):
                rows[items.language, row["item_id"]] = row
    return rows
