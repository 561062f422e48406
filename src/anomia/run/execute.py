"""Runs a study: base first, then every arm on the same items; finished shards are never done again."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
import transformers

from anomia._version import __version__
from anomia.compress.spec import Arm, Checkpoint, parse_arm
from anomia.errors import AnomiaError, ModelError, RunError
from anomia.grade import normalize
from anomia.items import Item, ItemSet, build_items, read_questions
from anomia.measure.fertility import fertility
from anomia.models import LoadedModel, load_model
from anomia.models.fingerprint import architecture, fingerprint_tokenizer, fingerprint_weights
from anomia.probe.ask import Decoding, Distribution, Reply
from anomia.probe.encode import EncodedItem, Form, encode_item
from anomia.probe.memory import fitting_batch_size
from anomia.probe.select import ChosenEngine, choose_engine
from anomia.records import record, write_rows
from anomia.run.compress import check_text, compress_arm, uses_own_text
from anomia.run.folder import RunFolder, Shard, begin_run, check_same, open_run, shards_of
from anomia.run.progress import Progress
from anomia.run.stopping import interleaved, stopped
from anomia.study import BASE, Study

PLAIN_BATCH_SIZE = 16
_LEFT_OUT = {
    "ungradable": "no answer can be graded",
    "no_standard_options": "there are not three wrong answers for them",
}


class ArmOutcome(NamedTuple):
    """How measuring an arm went: `failed` says why it could not be measured to the end."""

    arm: str
    failed: str | None = None


def run_study(study: Study, out: Path, *, progress: Progress) -> list[ArmOutcome]:
    """Measures base and every arm of a study into a run folder, going on where an earlier call stopped.

    An arm that can't be made is reported and the others go on.

    Raises:
        AnomiaError: the data, the base model or the run folder can't be used.
    """
    item_sets = _read_items(study)
    folder = open_run(out, study)
    if folder is not None:
        check_same(folder, item_sets)
    arms = [Arm(BASE), *(parse_arm(text) for text in study.arms)]
    todo = {arm.name: list(_pending(folder, study, arm.name, item_sets)) for arm in arms}
    languages = [items.language for items in item_sets]
    check_text(study, [arm for arm in arms if todo[arm.name]], languages)
    progress.begin(sum(shard.last - shard.first for shards in todo.values() for shard in shards))
    outcomes = []
    for arm in arms:
        if folder is not None and not todo[arm.name] and not (arm.name == BASE and _lacks_noise(folder)):
            outcomes.append(ArmOutcome(arm.name))
            continue
        try:
            for group in _groups(study, arm, item_sets):
                shards = [shard for shard in todo[arm.name] if shard.language in {s.language for s in group}]
                if (not shards and arm.name != BASE) or _narrow_enough(study, folder, arm, group):
                    continue
                if arm.name == BASE:
                    loaded = _load(study, study.base, progress)
                    engine = _engine(study, folder, loaded)
                    folder = folder or _begin(study, out, item_sets, loaded, engine, progress)
                    _check_weights(folder, loaded)
                else:
                    assert folder is not None
                    loaded = _load_arm(study, arm, group, folder, progress)
                    engine = _engine(study, folder, loaded)
                if engine.reason:
                    progress.say(f"{arm.name}: {engine.name} engine: {engine.reason}")
                for shard in interleaved(shards) if study.until_width else shards:
                    if _narrow_enough(study, folder, arm, group):
                        break
                    items = next(s for s in group if s.language == shard.language)
                    _measure(study, folder, shard, items, loaded, engine, progress)
                if arm.name == BASE:
                    _measure_noise(study, folder, item_sets, loaded, engine, progress)
                # The next model must not have to share the memory with this one.
                del loaded, engine
        except AnomiaError as error:
            # Where the run folder itself fails, the next arm can't be kept either.
            if arm.name == BASE or isinstance(error, RunError):
                raise
            progress.say(f"{arm.name}: {error}")
            outcomes.append(ArmOutcome(arm.name, failed=str(error)))
        else:
            outcomes.append(ArmOutcome(arm.name))
    assert folder is not None
    folder.note("arms.json", {outcome.arm: {"failed": outcome.failed} for outcome in outcomes})
    if study.until_width is not None:
        folder.note("stopping.json", _looks(study, folder, arms[1:], item_sets))
    return outcomes


def _narrow_enough(study: Study, folder: RunFolder | None, arm: Arm, group: Sequence[ItemSet]) -> bool:
    """Whether an arm has stopped. Base never does: every arm needs it."""
    if study.until_width is None or folder is None or arm.name == BASE:
        return False
    width, limit = study.until_width, study.reach_limit
    return stopped(folder, arm.name, group, width=width, reach_limit=limit) is not None


def _looks(
    study: Study, folder: RunFolder, arms: Sequence[Arm], item_sets: Sequence[ItemSet]
) -> dict[str, Any]:
    """When and why each arm stopped, for each group of languages that one of its models answers."""
    assert study.until_width is not None
    found: dict[str, Any] = {}
    for arm in arms:
        looks = [
            stopped(folder, arm.name, group, width=study.until_width, reach_limit=study.reach_limit)
            for group in _groups(study, arm, item_sets)
        ]
        found[arm.name] = [look.plain() for look in looks if look is not None]
    return {"width": study.until_width, "arms": found}


def _read_items(study: Study) -> list[ItemSet]:
    questions = read_questions(study.data, study.languages)
    sets = build_items(questions, dataset=study.data, limit=study.limit, seed=study.seed)
    return list(sets.values())


def _pending(
    folder: RunFolder | None, study: Study, arm: str, item_sets: Sequence[ItemSet]
) -> Iterator[Shard]:
    for items in item_sets:
        for shard in shards_of(arm, items, reach_limit=study.reach_limit):
            if folder is None or not folder.is_done(shard):
                yield shard


def _groups(study: Study, arm: Arm, item_sets: Sequence[ItemSet]) -> list[list[ItemSet]]:
    """The languages that one model answers: all of them, but one at a time where each has its own mask."""
    if uses_own_text(arm.steps, study):
        return [[items] for items in item_sets]
    return [list(item_sets)]


def _load(study: Study, name: str, progress: Progress) -> LoadedModel:
    progress.stage(f"loading {name}", 1)
    loaded = load_model(
        name,
        dtype=study.dtype,
        device=study.device,
        revision=study.revision if name == study.base else None,
        trust_remote_code=study.trust_remote_code,
        chat=study.chat,
    )
    progress.advance()
    return loaded


def _load_arm(
    study: Study,
    arm: Arm,
    item_sets: Sequence[ItemSet],
    folder: RunFolder,
    progress: Progress,
) -> LoadedModel:
    """Base (or the arm's own checkpoint) with the arm's compression applied in place."""
    steps = arm.steps
    first = steps[0]
    name = first.model if isinstance(first, Checkpoint) else study.base
    loaded = _load(study, name, progress)
    rest = steps[1:] if isinstance(first, Checkpoint) else steps
    if rest:
        passages = [item.question.context for items in item_sets for item in items.items]
        report = compress_arm(loaded, rest, study, [s.language for s in item_sets], passages, progress)
        whole = Shard(arm.name, study.data, "-".join(s.language for s in item_sets), 0, 0)
        name = whole.file_name.removesuffix(".parquet")
        folder.note(f"compression/{name}.json", {"arm": arm.name, **report})
    return loaded


def _engine(study: Study, folder: RunFolder | None, loaded: LoadedModel) -> ChosenEngine:
    """The engine of base for all models of its architecture, else one of the model's own."""
    if folder is not None and folder.provenance["architecture"] == architecture(loaded.model):
        return choose_engine(loaded.model, folder.provenance["engine"], tried=True)
    return choose_engine(loaded.model, study.engine)


def _begin(
    study: Study,
    out: Path,
    item_sets: Sequence[ItemSet],
    loaded: LoadedModel,
    engine: ChosenEngine,
    progress: Progress,
) -> RunFolder:
    for items in item_sets:
        for reason, count in items.excluded.items():
            if count and reason in _LEFT_OUT:
                progress.say(f"{items.language}: {count} questions left out: {_LEFT_OUT[reason]}")
    provenance = {
        "anomia": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "machine": _machine(loaded.device),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "engine": engine.name,
        "architecture": architecture(loaded.model),
        "batch_size": _batch_size(study, item_sets, loaded, engine),
        "eos_token_ids": list(loaded.eos_token_ids),
        "base_weights": fingerprint_weights(loaded.model),
        "tokenizer": fingerprint_tokenizer(loaded.tokenizer),
        "vocabulary": loaded.model.config.get_text_config().vocab_size,
        "fertility": {items.language: _fertility(items, loaded.tokenizer) for items in item_sets},
        "items": {items.language: len(items.items) for items in item_sets},
        "excluded": {items.language: dict(items.excluded) for items in item_sets},
        "exemplars": {items.language: _exemplar(study, items) for items in item_sets},
    }
    return begin_run(out, study, item_sets, provenance)


def _fertility(items: ItemSet, tokenizer: Any) -> dict[str, Any] | None:
    """Tokens a word of a language's passages (of its questions where there is no passage), uncut."""
    texts = list(dict.fromkeys(item.question.context or item.question.question for item in items.items))
    counts = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    found = fertility(texts, counts)
    return None if found is None else {"tokens_per_unit": found.tokens_per_unit, "unit": found.unit}


def _exemplar(study: Study, items: ItemSet) -> dict[str, Any] | None:
    """Which question one-shot prompts show, and whether its answer survives the cut of its passage."""
    if items.exemplar is None:
        return None
    shown = items.exemplar.context[: study.exemplar_characters]
    return {"id": items.exemplar.id, "answer_shown": normalize(items.exemplar.gold) in normalize(shown)}


def _check_weights(folder: RunFolder, loaded: LoadedModel) -> None:
    """Refuses to go on with a run whose base model has changed under it."""
    for key, now in (
        ("base_weights", fingerprint_weights(loaded.model)),
        ("tokenizer", fingerprint_tokenizer(loaded.tokenizer)),
    ):
        if folder.provenance[key] != now:
            raise RunError(
                f"run: {folder.path} was begun with another base model than {loaded.name} is now "
                f"({key} differs); give another --out"
            )


def _batch_size(study: Study, item_sets: Sequence[ItemSet], loaded: LoadedModel, engine: ChosenEngine) -> int:
    """Items a batch: as asked, else what fits into memory by the longest item of each language."""
    if study.batch_size != "auto":
        return study.batch_size
    if engine.name != "tree":
        return PLAIN_BATCH_SIZE
    longest = [max(items.items, key=lambda item: len(item.question.context)) for items in item_sets]
    asks = [
        _encode(study, item, items, loaded, reach=True).ask
        for item, items in zip(longest, item_sets, strict=True)
    ]
    return fitting_batch_size(loaded.model, asks, _decoding(study, loaded))


def _encode(
    study: Study, item: Item, items: ItemSet, loaded: LoadedModel, *, reach: bool, **more: Any
) -> EncodedItem:
    form = Form(
        chat=study.chat,
        positions=loaded.positions,
        max_new_tokens=study.max_new_tokens,
        prompt_tokens=study.prompt_tokens,
        one_shot_tokens=study.one_shot_tokens,
        one_shot_characters=study.one_shot_characters,
        exemplar_characters=study.exemplar_characters,
    )
    return encode_item(
        item, loaded.tokenizer, form, study.probes, exemplar=items.exemplar, reach=reach, **more
    )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def _measure(
    study: Study,
    folder: RunFolder,
    shard: Shard,
    items: ItemSet,
    loaded: LoadedModel,
    engine: ChosenEngine,
    progress: Progress,
) -> None:
    """Asks one shard and writes its rows."""
    chosen = items.items[shard.first : shard.last]
    progress.stage(f"{shard.arm}: {shard.language} {shard.first + 1}–{shard.last}", len(chosen))
    references: dict[str, Distribution] = {}
    if shard.arm != BASE and fingerprint_tokenizer(loaded.tokenizer) == folder.provenance["tokenizer"]:
        # Token ids of another vocabulary mean other tokens.
        references = _base_distributions(folder, shard)
    reach = shard.first < study.reach_limit
    encoded = [
        _encode(
            study,
            item,
            items,
            loaded,
            reach=reach,
            reference_tokens=references[item.question.id].tokens if item.question.id in references else (),
        )
        for item in chosen
    ]
    # Items of like length share a batch; the order is a function of the items alone.
    order = sorted(range(len(encoded)), key=lambda n: (encoded[n].prompt_tokens, n))
    rows: dict[int, dict[str, Any]] = {}
    replies = _ask(study, folder, [encoded[n] for n in order], loaded, engine)
    for offset, reply in zip(order, replies, strict=True):
        rows[offset] = record(
            encoded[offset],
            reply,
            loaded.tokenizer,
            arm=shard.arm,
            dataset=shard.dataset,
            index=shard.first + offset,
            base_distribution=references.get(reply.item_id),
        )
        progress.advance(items=1)
    if shard.arm == BASE and not any(row["finite"] for row in rows.values()):
        raise ModelError(
            f"model: {loaded.name!r} gives logits that are NaN or infinite for every item, so there is nothing "
            "to compare with; try another --dtype"
        )
    write_rows([rows[n] for n in range(len(rows))], folder.record_file(shard))


def _ask(
    study: Study,
    folder: RunFolder,
    encoded: Sequence[EncodedItem],
    loaded: LoadedModel,
    engine: ChosenEngine,
    *,
    size: int | None = None,
) -> Iterator[Reply]:
    size = size or int(folder.provenance["batch_size"])
    return engine.answer(
        loaded.model, [item.ask for item in encoded], _decoding(study, loaded), batch_size=size
    )


def _decoding(study: Study, loaded: LoadedModel) -> Decoding:
    return Decoding(
        eos_token_ids=loaded.eos_token_ids,
        top_tokens=study.top_tokens,
        max_new_tokens=study.max_new_tokens,
        num_beams=study.num_beams,
        num_samples=study.num_samples,
        top_p=study.top_p,
        temperature=study.temperature,
        sample_seeds=tuple(study.seed + n for n in range(study.sample_seeds)),
    )


def _base_distributions(folder: RunFolder, shard: Shard) -> dict[str, Distribution]:
    """Base's next-token distributions for the items of a shard, by item id."""
    path = folder.record_file(replace(shard, arm=BASE))
    if not path.is_file():
        return {}
    frame = pl.read_parquet(
        path, columns=["item_id", "distribution_tokens", "distribution_log_probs", "tail_mass"]
    )
    return {
        item_id: Distribution(tuple(tokens), tuple(log_probs), tail)
        for item_id, tokens, log_probs, tail in frame.iter_rows()
        if tokens is not None
    }


def _lacks_noise(folder: RunFolder) -> bool:
    return folder.study.noise_items > 0 and folder.noted("noise.json") is None


def _measure_noise(
    study: Study,
    folder: RunFolder,
    item_sets: Sequence[ItemSet],
    loaded: LoadedModel,
    engine: ChosenEngine,
    progress: Progress,
) -> None:
    """Asks a few items again at another batch size: verdicts that flip are what rounding alone does."""
    count = min(study.noise_items, sum(len(items.items) for items in item_sets))
    if not count or folder.noted("noise.json") is not None:
        return
    size = (
        max(1, int(folder.provenance["batch_size"]) // 2) if int(folder.provenance["batch_size"]) > 1 else 2
    )
    progress.stage(f"noise floor: {count} items again at batch size {size}", count)
    turns = [(items, index) for index in range(count) for items in item_sets if index < len(items.items)][
        :count
    ]
    flips = dict.fromkeys(("open", "choice", "open_text"), 0)
    encoded = [
        encode_item(
            items.items[index], loaded.tokenizer, Form(chat=study.chat, prompt_tokens=study.prompt_tokens),
            ("open", "choice"), exemplar=None, reach=False,
        )
        for items, index in turns
    ]  # fmt: skip
    first = _rows_by_item(folder, study, item_sets)
    replies = _ask(study, folder, encoded, loaded, engine, size=size)
    for (items, index), item, reply in zip(turns, encoded, replies, strict=True):
        again = record(item, reply, loaded.tokenizer, arm=BASE, dataset=items.dataset, index=index)
        before = first[items.language, item.item.question.id]
        flips["open"] += again["open_correct"] != before["open_correct"]
        flips["choice"] += again["choice_correct"] != before["choice_correct"]
        flips["open_text"] += again["open_text"] != before["open_text"]
        progress.advance()
    folder.note("noise.json", {"items": count, "batch_size": size, "flips": flips})


def _rows_by_item(
    folder: RunFolder, study: Study, item_sets: Sequence[ItemSet]
) -> Mapping[tuple[str, str], dict[str, Any]]:
    columns = ["item_id", "open_correct", "choice_correct", "open_text"]
    rows = {}
    for items in item_sets:
        for shard in shards_of(BASE, items, reach_limit=study.reach_limit):
            for row in pl.read_parquet(folder.record_file(shard), columns=columns).iter_rows(named=True):
                rows[items.language, row["item_id"]] = row
    return rows
