"""Long answers: a model's free answer to a prompt, and what it says along base's answer.

A long answer is an ask of its own, because the memory of a batch grows with the most tokens that may be generated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from anomia.loops import settled_loop
from anomia.probe.ask import (
    Ask,
    Decoding,
    Distribution,
    Engine,
    ForcedAnswer,
    OnSplit,
    OnTokens,
    Reply,
    TokenIds,
)
from anomia.probes import CONTINUATION


class BaseAnswer(NamedTuple):
    """Base's long answer.

    tokens: [T], without an end token. ended: whether it ended by itself; None if it was stopped at a loop, so the rest
    is unknown. text: as graded. distributions: base's top tokens at each position along its own answer and after it,
    [T + 1].
    """

    tokens: TokenIds
    ended: bool | None
    text: str
    distributions: tuple[Distribution, ...]


@dataclass(frozen=True, slots=True)
class LongQuestion:
    """A prompt to be answered at length.

    limit: the most tokens to generate. end_loops: end the free answer once it is settled to be a loop. base: base's
    answer, to take an arm along; None if its tokens mean other words.
    own: the model is base, and is taken along its own answer.
    """

    item_id: str
    prompt: TokenIds
    limit: int
    base: BaseAnswer | None = None
    own: bool = False
    end_loops: bool = False

    def is_stopped(self, answer: Sequence[int]) -> bool:
        """Whether an engine's free answer was ended because it is settled to be a loop, before its limit."""
        if not self.end_loops or len(answer) >= self.limit:
            return False
        settled = settled_loop(answer, self.limit)
        return settled is not None and settled.tokens == len(answer)

    @property
    def ask(self) -> Ask:
        """The free answer, and what the model says along base's."""
        forced = None if self.base is None else _along(self.prompt, self.base)
        return Ask(self.item_id, greedy={CONTINUATION: self.prompt}, forced=forced)


def answer_at_length(
    engine: Engine,
    model: Any,
    questions: Sequence[LongQuestion],
    decoding: Decoding,
    *,
    batch_size: int,
    on_split: OnSplit | None = None,
    on_tokens: OnTokens | None = None,
) -> Iterator[Reply]:
    """Yields the reply to each question in order: the free answer as `greedy`, and `forced` along base's answer.

    Base is taken along its own answer in a second pass. Its answer was decoded step by step and is now read in one
    pass, so where rounding decides between two tokens, base itself ranks a token of its answer second.
    """
    for (limit, end_loops), together in itertools.groupby(
        questions, key=lambda each: (each.limit, each.end_loops)
    ):
        group = list(together)
        settings = replace(decoding, max_new_tokens=limit, sample_seeds=(), end_loops=end_loops)
        asks = [question.ask for question in group]
        replies = engine(model, asks, settings, batch_size=batch_size, on_split=on_split, on_tokens=on_tokens)
        if not any(question.own for question in group):
            yield from replies
            continue
        for first in range(0, len(group), batch_size):
            free = list(itertools.islice(replies, batch_size))
            again = [
                Ask(reply.item_id, forced=ForcedAnswer(question.prompt, reply.greedy[CONTINUATION]))
                for question, reply in zip(group[first : first + batch_size], free, strict=True)
                if reply.finite
            ]
            along = engine(model, again, settings, batch_size=batch_size, on_split=on_split)
            for reply in free:
                if not reply.finite:
                    yield reply
                    continue
                taken = next(along)
                yield replace(reply, forced=taken.forced, finite=taken.finite)


def longest_ask(question: LongQuestion) -> Ask:
    """The ask of a question for the longest answer that base may give, for estimates of memory and cost."""
    answer = (question.prompt[-1],) * question.limit
    return Ask(
        question.item_id,
        greedy={CONTINUATION: question.prompt},
        forced=ForcedAnswer(question.prompt, answer),
    )


def _along(prompt: TokenIds, base: BaseAnswer) -> ForcedAnswer:
    return ForcedAnswer(prompt, base.tokens, tuple(each.tokens for each in base.distributions))


def joined(reply: Reply, long: Reply | None) -> Reply:
    """A reply to an item's other probes with the reply to its long question."""
    if long is None:
        return reply
    return replace(
        reply,
        greedy={**reply.greedy, **long.greedy},
        forced=long.forced,
        finite=reply.finite and long.finite,
    )
