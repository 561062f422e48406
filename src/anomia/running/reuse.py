"""Reuses base's measurement from an earlier run if nothing that it depends on has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from anomia.errors import RunError
from anomia.items import ItemSet
from anomia.records import ITEM_SCHEMA, item_rows, write_rows
from anomia.run_folder import RunFolder, runs_of
from anomia.running.alike import changed_prompts
from anomia.running.answerer import LocalModel
from anomia.running.cells import OpenCell
from anomia.running.folder import OpenedRun, is_same_items, open_run, shards_of
from anomia.running.progress import FinishedShard, Progress
from anomia.running.shard import encode_shard
from anomia.study import BASE, Study

_FOUND = {
    "base_weights": "weights",
    "architecture": "configuration",
    "tokenizer": "tokenizer",
    "dtype": "dtype",
    "engine": "engine",
    "batch_size": "batch size",
    "code": "code of the model",
    "eos_token_ids": "end tokens",
    "torch": "torch version",
    "transformers": "transformers version",
    "anomia": "anomia version",
}
"""Provenance of a run that base's answers depend on, with names for messages."""
_BESIDE = {
    "base", "arms", "data", "data_folder", "languages", "limit", "not_in", "noise_items", "until_width",
    "dtype", "engine", "batch_size", "device", "revision", "trust_remote_code",
    "calibration", "calibration_samples", "calibration_tokens", "calibration_folder", "calibration_budget",
    "calibration_answer_weight", "calibration_mix",
}  # fmt: skip
"""Settings that don't affect base's answers, or that already show in the provenance or the questions."""


def reuse_base(cell: OpenCell, base: LocalModel, runs: Sequence[Path], progress: Progress) -> None:
    """Copies base's records from earlier runs where nothing differs, and reports what differs elsewhere.

    Raises:
        RunError: an earlier run can't be read.
    """
    for path in [run for folder in runs for run in runs_of(folder)]:
        earlier = _open(path)
        shared = differences(earlier, cell.run)
        if shared:
            progress.say(f"{cell.label}base is not reused from {path}: different {', '.join(shared)}")
            continue
        for items in cell.item_sets:
            reason = _other_questions(earlier, cell.run, items)
            if reason:
                progress.say(f"{cell.label}{items.language}: base is not reused from {path}: {reason}")
                continue
            taken = sum(_copied(earlier, cell, base, items, progress))
            if taken:
                progress.say(f"{cell.label}{items.language}: base's {taken} items are reused from {path}")
        noise = earlier.folder.noise.read()
        same_items = earlier.provenance["items"] == cell.run.provenance["items"]
        if noise is not None and same_items and not cell.pending(BASE):
            cell.run.folder.noise.write(noise)


def differences(earlier: OpenedRun, now: OpenedRun) -> list[str]:
    """The differences between two runs that affect base's answers, apart from the questions."""
    found = [
        text
        for key, text in _FOUND.items()
        if earlier.provenance.get(key) != now.provenance.get(key)
        # In float32 the composition of a batch doesn't matter.
        and not (key == "batch_size" and now.provenance["dtype"] == "float32")
    ]
    before, asked = earlier.study.model_dump(), now.study.model_dump()
    return found + [
        f"{key} in the study" for key in asked if key not in _BESIDE and before[key] != asked[key]
    ]


def _other_questions(earlier: OpenedRun, now: OpenedRun, items: ItemSet) -> str | None:
    language = items.language
    before = earlier.folder.items().filter(pl.col("language") == language).drop("dataset")
    here = pl.DataFrame(item_rows(items), schema=ITEM_SCHEMA).drop("dataset")
    if before.is_empty():
        return "it has no such language"
    if not is_same_items(before, here):
        return "different questions or options"
    if earlier.provenance["exemplars"].get(language) != now.provenance["exemplars"][language]:
        return "a different one-shot exemplar"
    return None


def _copied(
    earlier: OpenedRun, cell: OpenCell, base: LocalModel, items: ItemSet, progress: Progress
) -> Iterator[int]:
    """Copies the shards that the earlier run has, and yields the number of rows of each."""
    limit = cell.study.oracle_limit
    before = earlier.study.data
    old = ItemSet(before, items.language, items.items, items.exemplar, items.excluded)
    for shard, theirs in zip(
        shards_of(BASE, items, oracle_limit=limit), shards_of(BASE, old, oracle_limit=limit), strict=True
    ):
        if cell.run.is_done(shard) or not earlier.is_done(theirs):
            continue
        rows = earlier.rows(theirs).with_columns(dataset=pl.lit(items.dataset))
        changed = changed_prompts(rows, encode_shard(cell, shard, base))
        if changed:
            progress.say(
                f"{cell.label}{items.language}: base's items {shard.first + 1} to {shard.last} are not reused from "
                f"{earlier.path}: {len(changed)} of them would be given different token ids now (first: {changed[0]})"
            )
            continue
        write_rows(rows.to_dicts(), cell.run.record_file(shard))
        count = shard.last - shard.first
        for _ in range(count):
            progress.advance(items=1)
        progress.finish(
            FinishedShard(cell.name, BASE, shard.language, shard.first, shard.last, 0.0, where="reused")
        )
        yield count


def _open(path: Path) -> OpenedRun:
    settings = RunFolder(path).study()
    settings.pop("provenance", None)
    # The run may lack settings that were added later; their defaults describe what it did.
    study = Study.model_validate({key: value for key, value in settings.items() if key in Study.model_fields})
    run = open_run(path, study)
    if run is None:
        raise RunError(f"run: --reuse {path} is not an Anomia run")
    return run
