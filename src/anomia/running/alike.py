"""That arms are asked exactly what base was asked, and that this stays the same when a run goes on.

A difference between base and a checkpoint is read as damage by compression. A checkpoint brings a tokenizer, a chat
template and end tokens of its own, and what these change is packaging: a missing start token alone can cost most
open answers. So a checkpoint is asked base's token ids and ends at base's end tokens wherever its vocabulary is
base's; what its own folder would ask is an arm of its own (`packaged:MODEL`).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import polars as pl

from anomia.compress.spec import Checkpoint
from anomia.errors import RunError
from anomia.models import LoadedModel, load_tokenizer
from anomia.models.chat import check_chat
from anomia.models.tokenization import same_ids
from anomia.probe.asked import prompt_hash
from anomia.probe.encode import EncodedItem
from anomia.running.folder import RunFolder, Shard
from anomia.study import BASE, Study

_OWN_TOKENS = (
    "ranks are of the first token that each model's own tokenizer gives an answer, passages are cut by its own tokens, "
    "and the divergence from base's next-token distribution can't be given"
)


class Asked(NamedTuple):
    """How a model is asked.

    alike: with base's token ids, and ended at base's end tokens. same_ids: its token ids mean what base's mean, so that
    their probabilities can be compared. why: where it isn't alike, the reason.
    """

    alike: bool = True
    same_ids: bool = True
    why: str = ""


def ask_like_base(
    study: Study, folder: RunFolder, step: Checkpoint, loaded: LoadedModel
) -> tuple[LoadedModel, Asked]:
    """A checkpoint as it is asked: like base where its vocabulary allows it, unless it is asked as packaged.

    Raises:
        ModelError: it is asked through a chat template, and has none that works.
    """
    tokenizer, _ = load_tokenizer(
        study.base, revision=study.revision, trust_remote_code=study.trust_remote_code
    )
    rows = loaded.model.get_input_embeddings().num_embeddings
    same = same_ids(tokenizer, loaded.tokenizer) and max(tokenizer.get_vocab().values()) < rows
    positions, mine = folder.provenance.get("positions"), loaded.positions
    if step.packaged:
        asked = Asked(False, same, "it is asked and ended as its own folder says")
    elif not same:
        size = loaded.model.config.get_text_config().vocab_size
        asked = Asked(
            False,
            same_ids=False,
            why=f"it has another tokenizer than base ({size:,} tokens against {folder.provenance['vocabulary']:,}) "
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


def today_of(folder: RunFolder) -> datetime.date | None:
    """The date that chat templates see in a run: that of its begin. None in runs that are older than this."""
    text = folder.provenance.get("today")
    return None if text is None else datetime.date.fromisoformat(str(text))


def check_like_base(folder: RunFolder, shard: Shard, encoded: Sequence[EncodedItem]) -> None:
    """Refuses to ask an arm other token ids than base was asked.

    Raises:
        RunError: some would be.
    """
    base = replace(shard, arm=BASE)
    if folder.is_done(base):
        _check(folder, base, encoded, f"{shard.arm} would be asked other token ids than base was")


def check_as_before(folder: RunFolder, shard: Shard, encoded: Sequence[EncodedItem]) -> None:
    """Refuses to go on with an arm whose finished items would be asked other token ids now.

    Raises:
        RunError: some would be.
    """
    _check(folder, shard, encoded, f"{shard.arm} was asked other token ids than it would be now")


def changed_prompts(rows: pl.DataFrame, encoded: Sequence[EncodedItem]) -> list[str]:
    """Ids of the items that were asked other token ids; rows of versions that didn't record them count as equal."""
    if "prompt_hash" not in rows.columns:
        return []
    before: Mapping[str, Any] = dict(rows.select("item_id", "prompt_hash").iter_rows())
    now = {item.item.question.id: prompt_hash(item.ask) for item in encoded}
    return [name for name, found in now.items() if before.get(name) not in (None, found)]


def _check(folder: RunFolder, shard: Shard, encoded: Sequence[EncodedItem], what: str) -> None:
    changed = changed_prompts(folder.rows(shard), encoded)
    if changed:
        raise RunError(
            f"run: {folder.path}: {what}, in {len(changed)} of {len(encoded)} items of {shard.language} (first: "
            f"{changed[0]}): its tokenizer, its chat template or a library has changed since the run began; restore "
            "it, or give another --out"
        )
