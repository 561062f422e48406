"""Measures one shard of items and writes its rows."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from anomia.errors import ModelError
from anomia.items import Item, ItemSet
from anomia.items.own import OwnOptions, own_item, own_options
from anomia.items.sets import set_of
from anomia.probe.ask import Ask, Decoding, Distribution, OnSplit
from anomia.probe.continuation import BaseAnswer, longest_ask
from anomia.probe.encode import EncodedItem, PromptEncoding, encode_item
from anomia.probe.memory import MemoryNeed, estimate, larger
from anomia.probes import CHOICE_OWN, CONTINUATION, NO_QUESTION_ENDING, OWN_COLUMN, OWN_GOLD
from anomia.records import record, with_own, write_rows
from anomia.records.long_answers import STORED
from anomia.running.alike import check_as_before, check_like_base, today_of
from anomia.running.answerer import Answerer
from anomia.running.cells import OpenCell
from anomia.running.folder import OpenedRun, Shard
from anomia.running.progress import FinishedShard, Progress
from anomia.study import BASE, Study

_ASKED_OF_OWN = ("choice", f"choice{NO_QUESTION_ENDING}")


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
    if CHOICE_OWN in cell.study.probes:
        _ask_own(cell, shard, model, [(n, encoded[n]) for n in order], rows, on_split=halved.append)
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


def _ask_own(
    cell: OpenCell,
    shard: Shard,
    model: Answerer,
    encoded: Sequence[tuple[int, EncodedItem]],
    rows: dict[int, dict[str, Any]],
    *,
    on_split: OnSplit,
) -> None:
    """Scores the options made from base's answers in a second pass, and adds them to the rows.

    Base and every arm are asked in a pass of its own, so that they are asked alike and their other answers are what
    they would be without it. encoded: the items as asked first, with their places in `rows`, in the order of asking.
    """
    run, study = cell.run, cell.study
    items = cell.items_of(shard)
    of_base = shard.arm == BASE
    found = {} if of_base else _base_options(run, shard)
    probes = tuple(name for name in study.probes if name in _ASKED_OF_OWN)
    asked: list[tuple[int, EncodedItem]] = []
    for place, item in encoded:
        row, question = rows[place], item.item.question
        if of_base and row["open_text"] is not None:
            found[question.id] = own_options(
                question, row["open_text"], set_of(items.dataset), seed=study.seed
            )
        options = found.get(question.id)
        again = None
        # What a server refuses, or gives no log-probabilities for, it would refuse again.
        if options is not None and options.texts and row["choice_scores"] is not None:
            again = _encode_own(cell, shard, model, item, own_item(item.item, options), probes)
        if again is not None:
            asked.append((place, again))
        if of_base and options is not None:
            row |= {OWN_COLUMN: list(options.texts) if again is not None else [], OWN_GOLD: options.gold}
    answers = model.answer(
        [item for _, item in asked],
        decoding(study),
        batch_size=int(run.provenance["batch_size"]),
        on_split=on_split,
    )
    for (place, item), (reply, decoded) in zip(asked, answers, strict=True):
        scored = record(
            item, reply, decoded, model.tokenizer, arm=shard.arm, dataset=shard.dataset, index=place
        )
        rows[place] = with_own(rows[place], scored)


def _encode_own(
    cell: OpenCell, shard: Shard, model: Answerer, first: EncodedItem, item: Item, probes: tuple[str, ...]
) -> EncodedItem | None:
    """An item with options of its own, after the same prompt as before; None if the model has no room for them."""
    items = cell.items_of(shard)
    positions = cell.run.provenance.get("positions") if model.asked.alike else None
    try:
        encoded = encode(
            cell.study.model_copy(update={"probes": probes}),
            item,
            items,
            model.tokenizer,
            oracle=False,
            positions=positions or model.positions,
            today=today_of(cell.run),
        )
    except ModelError:
        return None
    return encoded if encoded.context == first.context else None


def _base_options(run: OpenedRun, shard: Shard) -> dict[str, OwnOptions]:
    """The options made from base's answers to the items of a shard, by item id."""
    base = replace(shard, arm=BASE)
    if not run.is_done(base):
        return {}
    return {
        item_id: OwnOptions(gold, tuple(texts))
        for item_id, texts, gold in run.rows(base, ["item_id", OWN_COLUMN, OWN_GOLD]).iter_rows()
        if texts is not None
    }


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


def need_of(
    model: Any, encoded: Sequence[EncodedItem], settings: Decoding, *, own: bool = False
) -> MemoryNeed:
    """The memory need of the largest of these items, with their long answers.

    own: options made from base's answers are asked as well, in a pass of their own.
    """
    # Prompts are only answered at length.
    need = estimate(model, [item.ask for item in encoded if item.ask.greedy], settings)
    if own:
        again = [_longest_own(item.ask, settings.max_new_tokens) for item in encoded]
        need = larger(need, estimate(model, again, settings))
    for limit in {item.long.limit for item in encoded if item.long}:
        asks = [longest_ask(item.long) for item in encoded if item.long and item.long.limit == limit]
        at_length = replace(settings, max_new_tokens=limit, sample_seeds=())
        need = larger(need, estimate(model, asks, at_length))
    return need


def _longest_own(ask: Ask, limit: int) -> Ask:
    """The second pass of an item whose answer, and so each option made from it, has as many tokens as it may have."""
    longest = {
        name: replace(
            ask.options[name],
            # Different from the first token on, so that they share nothing.
            sequences=tuple(
                tokens[: ask.options[name].start] + (place,) * limit
                for place, tokens in enumerate(ask.options[name].sequences)
            ),
        )
        for name in _ASKED_OF_OWN
        if name in ask.options
    }
    return Ask(ask.item_id, options=longest)


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
