"""Ensures that arms are asked exactly what base was asked, also when a run is resumed.

A difference between base and a checkpoint is read as damage from compression. But a checkpoint comes with its own
tokenizer, chat template and end tokens, and their effects are packaging: a missing start token alone can cost most
open answers. So a checkpoint with base's vocabulary is asked base's token ids and ends at base's end tokens. A
separate arm (`packaged:MODEL`) asks it as its own folder specifies.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl
import transformers

from anomia.compress.steps import Checkpoint
from anomia.errors import RunError
from anomia.models.chat import check_chat
from anomia.models.fingerprint import (
    architecture,
    fingerprint_weights,
    is_same_tokenizer,
    is_same_weights,
    is_this_version,
)
from anomia.models.load import LoadedModel, load_tokenizer
from anomia.models.sizes import vocabulary_of
from anomia.models.tokenization import same_ids
from anomia.probe.asked import prompt_hash
from anomia.probe.encode import EncodedItem
from anomia.running.folder import OpenedRun, Shard
from anomia.study import BASE, Study

_OWN_TOKENS = (
    "ranks are of the first token that each model's own tokenizer gives an answer, passages are cut by its own tokens, "
    "and the divergence from base's next-token distribution can't be given"
)

# Generation settings that change greedy answers, with their neutral values.
_OF_GREEDY: Mapping[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "min_length": 0, "min_new_tokens": None, "exponential_decay_length_penalty": None, "sequence_bias": None,
    "guidance_scale": 1.0, "remove_invalid_values": False,
}  # fmt: skip


class Asked(NamedTuple):
    """How a model is asked.

    alike: with base's token ids and end tokens. same_ids: its token ids mean the same as base's, so probabilities can
    be compared. why: the reason if it isn't asked alike.
    """

    alike: bool = True
    same_ids: bool = True
    why: str = ""


def ask_like_base(
    study: Study, folder: OpenedRun, step: Checkpoint, loaded: LoadedModel
) -> tuple[LoadedModel, Asked]:
    """Prepares a checkpoint to be asked like base if its vocabulary allows it, unless it is asked as packaged.

    Raises:
        ModelError: it needs a chat template and has none that works.
    """
    tokenizer, _ = load_tokenizer(
        study.base,
        revision=study.revision,
        trust_remote_code=study.trust_remote_code,
        chat_template=study.chat_template,
    )
    rows = loaded.model.get_input_embeddings().num_embeddings
    same = same_ids(tokenizer, loaded.tokenizer)
    # Base's own tokenizer may have ids without an embedding, such as those of images.
    enough = rows >= min(max(tokenizer.get_vocab().values()) + 1, int(folder.provenance["vocabulary"]))
    positions, mine = folder.provenance.get("positions"), loaded.positions
    if step.packaged:
        asked = Asked(False, same and enough, "it is asked and ended as its own folder says")
        loaded = replace(loaded, notes=(*loaded.notes, *_not_applied(loaded.model)))
    elif same and not enough:
        asked = Asked(
            False,
            same_ids=False,
            why=f"it has {rows:,} embeddings, fewer than base, and is asked its own token ids",
        )
    elif not same:
        size = vocabulary_of(loaded.model)
        asked = Asked(
            False,
            same_ids=False,
            why=f"it has a different tokenizer from base's ({size:,} tokens against "
            f"{folder.provenance['vocabulary']:,}) "
            "and is asked its own token ids",
        )
        loaded = replace(loaded, notes=(*loaded.notes, _OWN_TOKENS))
    else:
        ends = tuple(folder.provenance["eos_token_ids"])
        loaded = replace(loaded, tokenizer=tokenizer, end_tokens=ends)
        if positions is None or mine is None or mine >= positions:
            return loaded, Asked()
        asked = Asked(
            False,
            why=f"it takes {mine:,} positions and base {positions:,}: long passages are cut shorter for it",
        )
    if study.chat:
        check_chat(loaded.name, loaded.tokenizer)
    return loaded, asked


def _not_applied(model: Any) -> list[str]:
    """A note on generation settings in the folder that would change greedy answers; a run doesn't apply them."""
    settings = model.generation_config.to_dict()
    usual = transformers.GenerationConfig().to_dict()
    found = [
        f"{name}={settings[name]}"
        for name in _OF_GREEDY
        if settings.get(name) not in (None, usual.get(name), _OF_GREEDY[name])
    ]
    if not found:
        return []
    return [
        f"its folder also sets {', '.join(found)}, which is not applied: `generate` on it gives other answers"
    ]


def what_is(loaded: LoadedModel) -> dict[str, Any]:
    """Everything besides prompts that a model's answers depend on, as stored in a run."""
    adapter = {"adapter": loaded.adapter} if loaded.adapter else {}
    return {
        **adapter,
        "weights": fingerprint_weights(loaded.model),
        "architecture": architecture(loaded.model),
        "end_tokens": list(loaded.eos_token_ids),
        "transformers": transformers.__version__,
    }


def check_base(folder: OpenedRun, loaded: LoadedModel) -> None:
    """Refuses to resume a run whose base model has changed.

    Raises:
        RunError: its weights, configuration, end tokens or tokenizer differ from those at the run's start.
    """
    known, now = folder.provenance, what_is(loaded)
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    same = {
        # In another dtype, as in a null arm, the weights have a different hash.
        "base_weights": is_same_weights(known["base_weights"], now["weights"], loaded.model)
        or dtype != known["dtype"],
        # Another version of transformers may write the configuration differently.
        "configuration": known["architecture"] == now["architecture"]
        or known["transformers"] != now["transformers"],
        "end tokens": list(known["eos_token_ids"]) == now["end_tokens"],
        "tokenizer": is_same_tokenizer(str(known["tokenizer"]), loaded.tokenizer),
    }
    for what, is_same in same.items():
        if not is_same:
            raise RunError(
                f"run: {folder.path} was started with a different base model than {loaded.name} is now ({what} "
                "differs); give another --out"
            )


def changed_model(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The parts of a checkpoint that have changed since its arm was started; unknown parts are not listed.

    Weights count as unknown if an earlier version of Anomia stored another kind of fingerprint.
    """
    names = {
        "weights": "weights",
        "architecture": "configuration",
        "end_tokens": "end tokens",
        "adapter": "adapter",
    }
    skipped = {"architecture"} if before.get("transformers") != now.get("transformers") else set()
    return [
        text
        for key, text in names.items()
        if key in before
        and key not in skipped
        and before[key] != now.get(key)
        and not (key == "weights" and not is_this_version(before[key]))
    ]


def today_of(folder: OpenedRun) -> datetime.date | None:
    """The date that chat templates see: the date the run was started. None in old runs that didn't store it."""
    text = folder.provenance.get("today")
    return None if text is None else datetime.date.fromisoformat(str(text))


def check_like_base(folder: OpenedRun, shard: Shard, encoded: Sequence[EncodedItem]) -> None:
    """Refuses to ask an arm token ids that differ from base's.

    Raises:
        RunError: some items would be asked differently.
    """
    base = replace(shard, arm=BASE)
    if folder.is_done(base):
        _check(folder, base, encoded, f"{shard.arm} would be given different token ids than base was")


def check_as_before(folder: OpenedRun, shard: Shard, encoded: Sequence[EncodedItem]) -> None:
    """Refuses to resume an arm whose finished items would be asked different token ids now.

    Raises:
        RunError: some items would be asked differently.
    """
    _check(folder, shard, encoded, f"{shard.arm} was given different token ids than it would be now")


def changed_prompts(rows: pl.DataFrame, encoded: Sequence[EncodedItem]) -> list[str]:
    """Ids of the items that were asked different token ids; old rows without prompt hashes count as equal."""
    if "prompt_hash" not in rows.columns:
        return []
    before: Mapping[str, Any] = dict(rows.select("item_id", "prompt_hash").iter_rows())
    now = {item.item.question.id: prompt_hash(item.asked) for item in encoded}
    return [name for name, found in now.items() if before.get(name) not in (None, found)]


def _check(folder: OpenedRun, shard: Shard, encoded: Sequence[EncodedItem], what: str) -> None:
    changed = changed_prompts(folder.rows(shard), encoded)
    if changed:
        raise RunError(
            f"run: {folder.path}: {what}, in {len(changed)} of {len(encoded)} items of {shard.language} (first: "
            f"{changed[0]}): its tokenizer, its chat template or a library has changed since the run began; restore "
            "it, or give another --out"
        )
