"""Starting a run: its provenance, which is checked again when the run is resumed."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash

from anomia._version import __version__
from anomia.compress.size import stored_bytes
from anomia.grade import normalize
from anomia.items import ItemSet
from anomia.measure.fertility import fertility
from anomia.models.chat import holds_special, varies_with_date
from anomia.models.fingerprint import (
    architecture,
    fingerprint_tokenizer,
    fingerprint_weights,
)
from anomia.models.sizes import vocabulary_of
from anomia.probe.memory import fitting_batch_size
from anomia.probes import CHOICE_OWN
from anomia.run_folder import RunFolder, runs_of
from anomia.running.answerer import LocalModel
from anomia.running.cells import OpenCell, PlannedCell
from anomia.running.folder import begin_run
from anomia.running.nulls import check_differs
from anomia.running.progress import Progress
from anomia.running.shard import decoding, encode, need_of
from anomia.running.sources import code_of, note_base
from anomia.study import Study
from anomia.words import counted

PLAIN_BATCH_SIZE = 16
_EXCLUDED = {
    "ungradable": "no answer can be graded",
    "no_standard_options": "there are not three wrong answers for them",
    "known": "they share text with what not_in names",
    "ambiguous_options": "a wrong option can't be told from the right one once punctuation is gone",
}


def begin(cell: PlannedCell, base: LocalModel, progress: Progress, reuse: Sequence[Path] = ()) -> OpenCell:
    """Creates a cell's folder, with the provenance of model, machine and items.

    Raises:
        CompressionError: a null arm would be base itself.
    """
    study, item_sets, loaded = cell.study, cell.item_sets, base.loaded
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    batch_size = batch_size_of(study, item_sets, base, reuse)
    for arm in cell.arms[1:]:
        check_differs(arm, dtype=dtype, batch_size=batch_size)
    for items in item_sets:
        for reason, count in items.excluded.items():
            if count and reason in _EXCLUDED:
                progress.say(f"{cell.label}{items.language}: {count} questions excluded: {_EXCLUDED[reason]}")
        if repeated := items.excluded.get("repeated"):
            progress.say(
                f"{cell.label}{items.language}: {repeated} questions repeat another one (same passage, question and "
                "answers) and are kept"
            )
    provenance = {
        "anomia": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "machine": _machine(loaded.device),
        "dtype": dtype,
        "engine": base.engine.name,
        "architecture": architecture(loaded.model),
        "batch_size": batch_size,
        "eos_token_ids": list(loaded.eos_token_ids),
        "positions": loaded.positions,
        "today": datetime.date.today().isoformat(),
        "base_weights": fingerprint_weights(loaded.model),
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "size_bytes": stored_bytes(loaded.model, source=loaded.name, revision=study.revision),
        "tokenizer": fingerprint_tokenizer(loaded.tokenizer),
        "code": code_of(study, loaded.name),
        "vocabulary": vocabulary_of(loaded.model),
        "fertility": {items.language: _fertility(items, loaded.tokenizer) for items in item_sets},
        "items": {items.language: len(items.items) for items in item_sets},
        "excluded": {items.language: dict(items.excluded) for items in item_sets},
        "special_in_text": _special_in_text(item_sets, loaded.tokenizer, progress),
        **({} if study.chat_template is None else {"chat_template": _digest(study.chat_template)}),
        "dated_template": study.chat and varies_with_date(loaded.tokenizer),
        "exemplars": {items.language: _exemplar(study, items) for items in item_sets},
    }
    opened = cell.begun_as(begin_run(cell.path, study, item_sets, provenance))
    note_base(opened)
    return opened


def batch_size_of(
    study: Study, item_sets: Sequence[ItemSet], base: LocalModel, reuse: Sequence[Path] = ()
) -> int:
    """Items per batch: from the study, from the run to reuse, or what fits into memory for the longest items."""
    if study.batch_size != "auto":
        return study.batch_size
    if reuse:
        return int(RunFolder(runs_of(reuse[0])[0]).provenance()["batch_size"])
    if base.engine.name != "tree":
        return PLAIN_BATCH_SIZE
    longest = [
        max(items.items, key=lambda item: len(item.question.context or item.question.question))
        for items in item_sets
    ]
    encoded = [
        encode(study, item, items, base.tokenizer, positions=base.positions, oracle=True)
        for item, items in zip(longest, item_sets, strict=True)
    ]
    settings = replace(decoding(study), eos_token_ids=base.loaded.eos_token_ids)
    need = need_of(base.loaded.model, encoded, settings, own=CHOICE_OWN in study.probes)
    return fitting_batch_size(base.loaded.model, need)


def _fertility(items: ItemSet, tokenizer: Any) -> dict[str, Any] | None:
    """Tokens per word in a language's uncut passages, or in its questions where there is no passage."""
    texts = list(dict.fromkeys(item.question.context or item.question.question for item in items.items))
    counts = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    found = fertility(texts, counts)
    return None if found is None else {"tokens_per_unit": found.tokens_per_unit, "unit": found.unit}


def _special_in_text(item_sets: Sequence[ItemSet], tokenizer: Any, progress: Progress) -> dict[str, int]:
    """Counts, per language, items whose text contains a special token of this tokenizer, and reports them."""
    found = {
        items.language: sum(
            bool(holds_special(tokenizer, f"{item.question.context}\n{item.question.question}"))
            for item in items.items
        )
        for items in item_sets
    }
    if any(found.values()):
        counted_items = ", ".join(f"{language} {count}" for language, count in found.items() if count)
        progress.say(
            "items whose text holds special tokens of this tokenizer, which may end a turn or the text: "
            f"{counted_items}"
        )
    return found


def _digest(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


def _exemplar(study: Study, items: ItemSet) -> dict[str, Any] | None:
    """The question shown in one-shot prompts, and whether its answer survives the cut of its passage."""
    if items.exemplar is None:
        return None
    shown = items.exemplar.context[: study.exemplar_characters]
    return {"id": items.exemplar.id, "answer_shown": normalize(items.exemplar.gold) in normalize(shown)}


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()}, {counted(torch.get_num_threads(), 'thread')}"
