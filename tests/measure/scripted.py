"""A language model that is written down: which texts it wants to say after which prompt, and how much.

Its replies are computed from its logits as an engine's are, so that altering the logits in a known way has
known consequences all the way from encoding to the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import log_softmax

from anomia.items import ItemSet
from anomia.probe.ask import Ask, Placement, Reply
from anomia.probe.decode import decode_reply
from anomia.probe.encode import EncodedItem, PromptEncoding, encode_item
from anomia.records import SCHEMA, record

Logits = NDArray[np.float64]
PROBES = ("open", "choice", "choice_hard", "choice_passage", "choice_no_question", "rank")
EOS, LENGTH = 1, 12
SAID, KNOWN = 12.0, 7.0


@dataclass(frozen=True)
class Scripted:
    """paths: for each item, whole token sequences (prompt and answer) and the logit of their tokens.

    alter: what is done to the logits after a prefix, told the item's gold sequence.
    """

    vocabulary: int
    paths: Mapping[str, Sequence[tuple[tuple[int, ...], float]]]
    alter: Callable[[Logits, tuple[int, ...], tuple[int, ...]], Logits] = lambda logits, prefix, gold: logits

    def logits(self, item: str, prefix: tuple[int, ...], gold: tuple[int, ...]) -> Logits:
        """Next-token logits after a prefix: [vocabulary]."""
        found = np.random.default_rng([len(prefix), *prefix[-6:]]).normal(size=self.vocabulary)
        found[EOS] = -20.0
        for path, strength in self.paths[item]:
            if path[: len(prefix)] == prefix:
                following = path[len(prefix)] if len(prefix) < len(path) else EOS
                found[following] = max(found[following], strength)
        return self.alter(found, prefix, gold)

    def reply(self, encoded: EncodedItem) -> Reply:
        """The answers to one ask."""
        ask, gold = encoded.ask, gold_sequence(encoded.ask)

        def after(prefix: tuple[int, ...]) -> Logits:
            return self.logits(ask.item_id, prefix, gold)

        said = list[int]()
        while len(said) < LENGTH:
            token = int(np.argmax(after(ask.greedy["open"] + tuple(said))))
            if token == EOS:
                break
            said.append(token)
        scores = {
            name: tuple(
                tuple(
                    float(log_softmax(after(path[:place]))[path[place]])
                    for place in range(options.start, len(path))
                )
                for path in options.sequences
            )
            for name, options in ask.options.items()
        }
        placements = {name: _place(after(t.prefix), t.token) for name, t in ask.targets.items()}
        return Reply(
            ask.item_id, greedy={"open": tuple(said)}, option_log_probs=scores, placements=placements
        )


def gold_sequence(ask: Ask) -> tuple[int, ...]:
    """Prompt and gold answer."""
    return ask.options["answers"].sequences[0]


def encode(items: ItemSet, tokenizer: Any) -> list[EncodedItem]:
    return [
        encode_item(item, tokenizer, PromptEncoding(), PROBES, exemplar=None, oracle=False)
        for item in items.items
    ]


def probe(arm: str, model: Scripted, encoded: Sequence[EncodedItem], tokenizer: Any) -> pl.DataFrame:
    """The records of one arm."""
    rows = []
    for index, item in enumerate(encoded):
        reply = model.reply(item)
        said = decode_reply(item, reply, tokenizer)
        rows.append(record(item, reply, said, tokenizer, arm=arm, dataset="scripted", index=index))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _place(logits: Logits, token: int) -> Placement:
    above = int((logits > logits[token]).sum())
    ties = int((logits == logits[token]).sum()) - 1
    return Placement(above + 1, ties, float(log_softmax(logits)[token]), float(logits.max() - logits[token]))
