"""Asks one shard of items and writes its rows."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anomia.endpoint.ask import answer_items
from anomia.errors import ModelError
from anomia.items import Item, ItemSet
from anomia.models import LoadedModel
from anomia.probe.ask import Decoding, Distribution, OnSplit, Reply
from anomia.probe.encode import EncodedItem, Form, encode_item
from anomia.records import Said, record, write_rows
from anomia.running.alike import check_as_before, check_like_base, today_of
from anomia.running.cells import CellRun
from anomia.running.folder import OpenedRun, Shard
from anomia.running.model import Ready
from anomia.running.progress import Finished, Progress
from anomia.study import BASE, Study


def measure_shard(cell: CellRun, shard: Shard, ready: Ready, progress: Progress, *, where: str = "") -> None:
    """Asks one shard and writes its rows.

    Raises:
        ModelError: base answers no item with finite logits.
        RunError: the rows can't be written.
    """
    loaded = ready.loaded
    assert cell.run is not None
    run, folder = cell.run, cell.run.folder
    began = time.monotonic()
    items = cell.items_of(shard)
    chosen = items.items[shard.first : shard.last]
    progress.stage(f"{cell.label}{shard.arm}: {shard.language} {shard.first + 1}–{shard.last}", len(chosen))
    references: dict[str, Distribution] = {}
    if shard.arm != BASE and ready.asked.same_ids:
        # Token ids of another vocabulary mean other tokens.
        references = _base_distributions(run, shard)
    encoded = encode_shard(cell, shard, ready, references)
    if shard.arm != BASE and ready.asked.alike:
        check_like_base(run, shard, encoded)
    # Items of like length share a batch; the order is a function of the items alone.
    order = sorted(range(len(encoded)), key=lambda n: (encoded[n].prompt_tokens, n))
    rows: dict[int, dict[str, Any]] = {}
    halved: list[tuple[str, ...]] = []
    refused: dict[str, dict[str, str]] = {}
    answers = _answers(cell, [encoded[n] for n in order], ready, on_split=halved.append)
    for offset, (reply, said) in zip(order, answers, strict=True):
        rows[offset] = record(
            encoded[offset],
            reply,
            loaded.tokenizer,
            arm=shard.arm,
            dataset=shard.dataset,
            index=shard.first + offset,
            base_distribution=references.get(reply.item_id),
            said=said,
        )
        if said is not None and said.refused:
            refused[reply.item_id] = dict(said.refused)
        progress.advance(items=1)
    if shard.arm == BASE and not any(row["finite"] for row in rows.values()):
        raise ModelError(
            f"model: {loaded.name!r} gives logits that are NaN or infinite for every item, so there is nothing "
            "to compare with; try another --dtype"
        )
    part = {"arm": shard.arm, "dataset": shard.dataset, "language": shard.language}
    if halved:
        # In half precision it matters which items shared a batch, so a run says where that was not as planned.
        folder.splits.of(shard.key).write({**part, "halved": halved})
    if refused:
        folder.refused.of(shard.key).write({**part, "refused": refused})
    write_rows([rows[n] for n in range(len(rows))], run.record_file(shard))
    taken = round(time.monotonic() - began, 3)
    progress.finish(
        Finished(cell.name, shard.arm, shard.language, shard.first, shard.last, seconds=taken, where=where)
    )


def check_finished(cell: CellRun, arm: str, ready: Ready) -> None:
    """Sees that what a model answered before would be asked again as it was.

    Raises:
        RunError: it would be asked other token ids.
    """
    assert cell.run is not None
    for shard in cell.shards(arm):
        if cell.run.is_done(shard):
            check_as_before(cell.run, shard, encode_shard(cell, shard, ready))


def encode_shard(
    cell: CellRun, shard: Shard, ready: Ready, references: Mapping[str, Distribution] | None = None
) -> list[EncodedItem]:
    """The items of a shard as a model is asked them. references: base's next-token distributions, by item."""
    assert cell.run is not None
    items, loaded = cell.items_of(shard), ready.loaded
    # A model that takes more positions than base would otherwise see more of a long passage than base did.
    positions = cell.run.provenance.get("positions") if ready.asked.alike else None
    return [
        encode(
            cell.study,
            item,
            items,
            loaded,
            reach=shard.first < cell.study.reach_limit,
            positions=positions or loaded.positions,
            today=today_of(cell.run),
            reference_tokens=found.tokens if (found := (references or {}).get(item.question.id)) else (),
        )
        for item in items.items[shard.first : shard.last]
    ]


def _answers(
    cell: CellRun, encoded: Sequence[EncodedItem], ready: Ready, *, on_split: OnSplit
) -> Iterator[tuple[Reply, Said | None]]:
    """Replies in the order of the items; those of a served model come as texts."""
    if ready.served is None:
        return ((reply, None) for reply in ask(cell, encoded, ready, on_split=on_split))
    asked = decoding(cell.study, None)
    return answer_items(ready.served, encoded, ready.loaded.tokenizer, asked, chat=cell.study.chat)


def encode(
    study: Study,
    item: Item,
    items: ItemSet,
    loaded: LoadedModel,
    *,
    reach: bool,
    positions: int | None = None,
    today: datetime.date | None = None,
    **more: Any,
) -> EncodedItem:
    """The item as the study asks it.

    reach: with beams and samples. positions: the longest sequence, by default what the model takes. today: the date
    that chat templates see.
    """
    form = Form(
        chat=study.chat,
        today=today,
        positions=positions or loaded.positions,
        max_new_tokens=study.max_new_tokens,
        prompt_tokens=study.prompt_tokens,
        one_shot_tokens=study.one_shot_tokens,
        one_shot_characters=study.one_shot_characters,
        exemplar_characters=study.exemplar_characters,
        templates=study.templates,
        grading=study.grading,
    )
    return encode_item(
        item,
        loaded.tokenizer,
        form,
        study.probes,
        exemplar=items.exemplar,
        reach=reach,
        **more,
    )


def ask(
    cell: CellRun,
    encoded: Sequence[EncodedItem],
    ready: Ready,
    *,
    size: int | None = None,
    on_split: OnSplit | None = None,
) -> Iterator[Reply]:
    """Replies in the order of the items; size: items a batch, by default the run's."""
    assert cell.run is not None
    size = size or ready.batch_size or int(cell.run.provenance["batch_size"])
    asks = [item.ask for item in encoded]
    how = decoding(cell.study, ready.loaded)
    return ready.engine.answer(ready.loaded.model, asks, how, batch_size=size, on_split=on_split)


def decoding(study: Study, loaded: LoadedModel | None) -> Decoding:
    """How answers are generated; a served model ends them by itself."""
    return Decoding(
        eos_token_ids=() if loaded is None else loaded.eos_token_ids,
        top_tokens=study.top_tokens,
        max_new_tokens=study.max_new_tokens,
        num_beams=study.num_beams,
        num_samples=study.num_samples,
        top_p=study.top_p,
        temperature=study.temperature,
        sample_seeds=tuple(study.seed + n for n in range(study.sample_seeds)),
    )


def _base_distributions(run: OpenedRun, shard: Shard) -> dict[str, Distribution]:
    """Base's next-token distributions for the items of a shard, by item id."""
    base = replace(shard, arm=BASE)
    if not run.is_done(base):
        return {}
    columns = ["item_id", "distribution_tokens", "distribution_log_probs", "tail_mass"]
    return {
        item_id: Distribution(tuple(tokens), tuple(log_probs), tail)
        for item_id, tokens, log_probs, tail in run.rows(base, columns).iter_rows()
        if tokens is not None
    }
