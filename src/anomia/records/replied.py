"""One item as asked, with the reply of one arm: everything that a row of the records is computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from anomia.grade import normalize
from anomia.probe.ask import Distribution, Reply
from anomia.probe.continuation import BaseAnswer
from anomia.probe.decode import Decoded
from anomia.probe.encode import EncodedItem
from anomia.probes import CHOICES, NO_QUESTION

# The name under which accepted answers are scored, like options.
ANSWERS = "answers"


@dataclass(frozen=True)
class Scored:
    """Scored options. log_probs: the natural log-probabilities of each option's tokens."""

    texts: Sequence[str]
    gold: str
    log_probs: Sequence[Sequence[float]]

    @cached_property
    def sums(self) -> list[float]:
        """The log-probability of each option, [options], in nats."""
        return [math.fsum(scores) for scores in self.log_probs]

    def over(self, length: str) -> list[float]:
        """The sums divided by each option's length in `tokens`, `bytes` or `characters` (the last as in `acc_norm`)."""
        lengths = {
            "tokens": [len(scores) for scores in self.log_probs],
            "bytes": [len(text.encode()) for text in self.texts],
            "characters": [len(text) for text in self.texts],
        }
        return [total / n for total, n in zip(self.sums, lengths[length], strict=True)]

    def pick(self, scores: Sequence[float]) -> str:
        """The first option with the highest score."""
        return self.texts[max(range(len(scores)), key=scores.__getitem__)]

    def right(self, scores: Sequence[float]) -> bool:
        """Whether the gold answer is picked."""
        return self.pick(scores) == self.gold


@dataclass(frozen=True)
class Replied:
    """One arm's reply to one item. index: the item's position in the fixed order.

    base_distribution: base's next-token distribution, for the KL divergence; None for base itself.
    """

    encoded: EncodedItem
    reply: Reply
    reply_texts: Decoded
    tokenizer: Any
    arm: str
    dataset: str
    index: int
    base_distribution: Distribution | None = None

    @property
    def base_answer(self) -> BaseAnswer | None:
        """Base's long answer; None for base itself, or if it was not asked for one."""
        return None if self.encoded.long is None else self.encoded.long.base

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids of special tokens."""
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def scored(self) -> Mapping[str, Scored]:
        """Options by probe, and the accepted answers under `ANSWERS`."""
        item = self.encoded.item
        kinds = CHOICES | NO_QUESTION
        return {
            name: Scored(
                item.question.answers if name == ANSWERS else item.options[kinds[name]],
                item.question.gold,
                log_probs,
            )
            for name, log_probs in self.reply.option_log_probs.items()
        }

    def decoded(self, tokens: Sequence[int]) -> list[str]:
        """Each token as text."""
        return [self.tokenizer.decode([token]) for token in tokens]


def string_presence(options: Sequence[str], gold: str, context: str) -> float:
    """The accuracy of picking at random an option that occurs in the passage: a control without a model."""
    passage = normalize(context)
    present = [option for option in options if normalize(option) in passage]
    if not present:
        return 1.0 / len(options)
    return (gold in present) / len(present)


def kl_divergence(base: Distribution, arm_log_probs: Sequence[float]) -> float:
    """KL(base ‖ arm) in nats over base's top tokens, with all other tokens merged into one outcome.

    arm_log_probs: the arm's log-probabilities of base's top tokens, [tokens].
    Merging outcomes can only lower a divergence, so this is a lower bound, which is tight if the tail is small.
    """
    inside = math.fsum(math.exp(p) * (p - q) for p, q in zip(base.log_probs, arm_log_probs, strict=True))
    # Sums of hundreds of rounded probabilities exceed 1 by a few units in the last place of float32.
    arm_tail = max(1e-6, 1.0 - math.fsum(math.exp(q) for q in arm_log_probs))
    tail = base.tail_mass * math.log(base.tail_mass / arm_tail) if base.tail_mass > 0 else 0.0
    return max(0.0, inside + tail)
