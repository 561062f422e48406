"""Measures one shard of items and writes its rows."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from anomia.errors import ModelError
from anomia.items import Item, ItemSet
from anomia.probe.ask import Decoding, Distribution
from anomia.probe.continuation import BaseAnswer, longest_ask
from anomia.probe.encode import EncodedItem, PromptEncoding, encode_item
from anomia.probe.memory import MemoryNeed, estimate, larger
from anomia.probes import CONTINUATION
from anomia.records import record, write_rows
from anomia.records.long_answers import STORED
from anomia.running.alike import check_as_before, check_like_base, today_of
from anomia.running.answerer import Answerer
from anomia.running.cells import OpenCell
from anomia.running.folder import OpenedRun, Shard
from anomia.running.progress import FinishedShard, Progress
from anomia.study import BASE, Study


def measure_shard(
    cell: OpenCell, shard: Shard, model: Answerer, progress: Progress, *, where: str = ""
) -> None:
    """Measures one shard and writes its rows.

    Raises:
        ModelError: base has finite logits for no item.
        RunError: the rows can't be written, or an arm asked like base would be asked different token ids.
    """
    run, folder = cell.run, cell.run.folder
    began = time.monotonic()
    items = cell.items_of(shard)
    chosen = items.items[shard.first : shard.last]
    progress.stage(f"{cell.label}{shard.arm}: {shard.language} {shard.first + 1}–{shard.last}", len(chosen))
    references: dict[str, Distribution] = {}
    answers_of_base: dict[str, BaseAnswer] = {}
    if shard.arm != BASE and model.asked.same_ids:
        # Token ids of another vocabulary would mean other tokens.
        references = _base_distributions(run, shard)
        answers_of_base = _base_answers(run, shard)
    encoded = encode_shard(cell, shard, model, references, answers_of_base)
    if shard.arm != BASE and model.asked.alike:
        check_like_base(run, shard, encoded)
    # Items of similar length share a batch; the order depends on the items alone.
    order = sorted(range(len(encoded)), key=lambda n: (encoded[n].prompt_tokens, n))
    rows: dict[int, dict[str, Any]] = {}
    halved: list[tuple[str, ...]] = []
    refused: dict[str, dict[str, str]] = {}
    answers = model.answer(
        [encoded[n] for n in order],
        decoding(cell.study),
        batch_size=int(run.provenance["batch_size"]),
        on_split=halved.append,
        on_tokens=progress.tokens,
    )
    for offset, (reply, decoded) in zip(order, answers, strict=True):
        rows[offset] = record(
            encoded[offset],
            reply,
            decoded,
            model.tokenizer,
            arm=shard.arm,
            dataset=shard.dataset,
            index=shard.first + offset,
            base_distribution=references.get(reply.item_id),
        )
        if decoded.refused:
            refused[reply.item_id] = dict(decoded.refused)
        progress.advance(items=1)
    if shard.arm == BASE and not any(row["finite"] for row in rows.values()):
        raise ModelError(
            f"model: {model.name!r} gives logits that are NaN or infinite for every item, so there is nothing "
            "to compare with; try another --dtype"
        )
    part = {"arm": shard.arm, "dataset": shard.dataset, "language": shard.language}
    if halved:
        # In half precision it matters which items shared a batch, so a run records batches that were split.
        folder.splits.of(shard.key).write({**part, "halved": halved})
    if refused:
        folder.refused.of(shard.key).write({**part, "refused": refused})
    write_rows([rows[n] for n in range(len(rows))], run.record_file(shard))
    taken = round(time.monotonic() - began, 3)
    progress.finish(
        FinishedShard(
            cell.name, shard.arm, shard.language, shard.first, shard.last, seconds=taken, where=where
        )
    )


def check_finished(cell: OpenCell, arm: str, model: Answerer) -> None:
    """Checks that the finished items of an arm would be asked the same again.

    Raises:
        RunError: some would be asked different token ids.
    """
    for shard in cell.shards(arm):
        if cell.run.is_done(shard):
            check_as_before(cell.run, shard, encode_shard(cell, shard, model))


def encode_shard(
    cell: OpenCell,
    shard: Shard,
    model: Answerer,
    references: Mapping[str, Distribution] | None = None,
    base_answers: Mapping[str, BaseAnswer] | None = None,
) -> list[EncodedItem]:
    """Encodes the items of a shard for a model.

    references, base_answers: base's next-token distributions and long answers, by item id.
    """
    items = cell.items_of(shard)
    # Otherwise a model with more positions than base would see more of a long passage than base did.
    positions = cell.run.provenance.get("positions") if model.asked.alike else None
    return [
        encode(
            cell.study,
            item,
            items,
            model.tokenizer,
            oracle=shard.first < cell.study.oracle_limit,
            positions=positions or model.positions,
            today=today_of(cell.run),
            reference_tokens=found.tokens if (found := (references or {}).get(item.question.id)) else (),
            base_answer=(base_answers or {}).get(item.question.id),
            own=shard.arm == BASE,
        )
        for item in items.items[shard.first : shard.last]
    ]


def encode(
    study: Study,
    item: Item,
    items: ItemSet,
    tokenizer: Any,
    *,
    positions: int | None,
    oracle: bool,
    today: datetime.date | None = None,
    **more: Any,
) -> EncodedItem:
    """Encodes an item with the settings of the study.

    positions: the longest sequence that the model takes, in tokens; None for no limit. oracle: with beams and samples.
    today: the date that chat templates see.
    """
    form = PromptEncoding(**_settings(PromptEncoding, study), today=today, positions=positions)
    return encode_item(
        item,
        tokenizer,
        form,
        study.probes,
        exemplar=items.exemplar,
        oracle=oracle,
        **more,
    )


def need_of(model: Any, encoded: Sequence[EncodedItem], settings: Decoding) -> MemoryNeed:
    """The memory need of the largest of these items, with their long answers."""
    # Prompts are only answered at length.
    need = estimate(model, [item.ask for item in encoded if item.ask.greedy], settings)
    for limit in {item.long.limit for item in encoded if item.long}:
        asks = [longest_ask(item.long) for item in encoded if item.long and item.long.limit == limit]
        at_length = replace(settings, max_new_tokens=limit, sample_seeds=())
        need = larger(need, estimate(model, asks, at_length))
    return need


def decoding(study: Study) -> Decoding:
    """The decoding settings of a study; each model adds its own end tokens."""
    seeds = tuple(study.seed + n for n in range(study.sample_seeds))
    return Decoding(**_settings(Decoding, study) | {"eos_token_ids": (), "sample_seeds": seeds})


def _settings(part: type[PromptEncoding | Decoding], study: Study) -> dict[str, Any]:
    """The settings of a study that are also fields of a part of it."""
    absent = object()
    found = {field.name: getattr(study, field.name, absent) for field in fields(part)}
    return {name: value for name, value in found.items() if value is not absent}


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


def _base_answers(run: OpenedRun, shard: Shard) -> dict[str, BaseAnswer]:
    """Base's long answers to the items of a shard, by item id."""
    base = replace(shard, arm=BASE)
    if CONTINUATION not in run.study.probes or not run.is_done(base):
        return {}
    return {
        item_id: BaseAnswer(
            tuple(ids),
            ended,
            text,
            tuple(
                Distribution(tuple(tokens), tuple(log_probs), tail)
                for tokens, log_probs, tail in zip(*tops, strict=True)
            ),
        )
        for item_id, ids, ended, text, *tops in run.rows(base, ["item_id", *STORED]).iter_rows()
        if ids is not None and tops[0] is not None
    }
