"""Columns for long answers: a model's free answer, and what it says along base's.

Positions count the tokens of an answer from 0. An answer that was stopped at a loop has no value for whether it ended,
and values of its text are those of the text up to there. Base's own rows hold its top tokens at each position, from
which the KL divergence of an arm is computed; an arm that is asked other token ids than base has only its free answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from anomia.loops import Loop, loop_of
from anomia.probe.ask import Followed
from anomia.probe.continuation import BaseAnswer
from anomia.probes import CONTINUATION
from anomia.records.replied import Replied, kl_divergence
from anomia.text import final_answer, layout, main_language, main_script

_INTS = pl.List(pl.Int32)
_FLOATS = pl.List(pl.Float32)
_BOOLS = pl.List(pl.Boolean)


class LongColumn(NamedTuple):
    """A column, without the beginning of its name."""

    dtype: Any
    value: Callable[[Replied], Any]


def _free(value: Callable[[Replied, Sequence[int], str], Any]) -> Callable[[Replied], Any]:
    """A value computed from the free answer's tokens and text."""

    def of(replied: Replied) -> Any:
        tokens = replied.reply.greedy.get(CONTINUATION)
        decoded = replied.reply_texts.greedy.get(CONTINUATION)
        return None if tokens is None or decoded is None else value(replied, tokens, decoded.text)

    return of


def _along(value: Callable[[Followed], Any]) -> Callable[[Replied], Any]:
    """A value computed from the model's teacher-forced outputs on base's answer."""
    return lambda replied: None if replied.reply.forced is None else value(replied.reply.forced)


def _to_base(value: Callable[[BaseAnswer, Followed], Any]) -> Callable[[Replied], Any]:
    """A value computed from both along the same answer; null for base itself."""

    def of(replied: Replied) -> Any:
        base = replied.base_answer
        found = replied.reply.forced
        # Servers give no probabilities of base's other tokens.
        return None if base is None or found is None or not found.reference_log_probs else value(base, found)

    return of


def _of_base(value: Callable[[Followed], Any]) -> Callable[[Replied], Any]:
    """A value that only base's own rows hold."""
    return lambda replied: (
        None
        if replied.reply.forced is None or not replied.reply.forced.distributions
        else value(replied.reply.forced)
    )


def _compared(value: Callable[[BaseAnswer, Sequence[int], str], Any]) -> Callable[[Replied], Any]:
    """A value computed from base's answer and the arm's free one; null for base itself."""

    def of(replied: Replied, tokens: Sequence[int], text: str) -> Any:
        return None if replied.base_answer is None else value(replied.base_answer, tokens, text)

    return _free(of)


def _apart(value: Callable[[int | None], Any]) -> Callable[[Replied], Any]:
    """A value of where the arm's free answer leaves base's; null where one was stopped before they differ."""

    def of(replied: Replied, tokens: Sequence[int], text: str) -> Any:
        base = replied.base_answer
        if base is None:
            return None
        place = _divergence(base, tokens)
        shared = min(len(base.tokens), len(tokens))
        open_ended = [base.tokens] * (base.ended is None) + [tokens] * bool(_stopped(replied, tokens, text))
        if place in (None, shared) and any(len(each) == shared for each in open_ended):
            return None
        return value(place)

    return _free(of)


def _ended(replied: Replied, tokens: Sequence[int], _: str) -> bool | None:
    assert replied.encoded.long is not None
    if replied.reply_texts.ended is not None:
        return replied.reply_texts.ended
    return None if _stopped(replied, tokens, "") else len(tokens) < replied.encoded.long.limit


def _stopped(replied: Replied, tokens: Sequence[int], _: str) -> int | None:
    """How many tokens an answer had when it was stopped at a loop; None if it is whole, as servers' answers are."""
    assert replied.encoded.long is not None
    whole = replied.reply_texts.ended is not None or not replied.encoded.long.is_stopped(tokens)
    return None if whole else len(tokens)


def _correct(replied: Replied, _: Sequence[int], text: str) -> bool | None:
    answers = replied.encoded.item.question.answers
    return replied.encoded.grading.is_right(text, answers) if answers else None


def _loop(value: Callable[[Loop], int]) -> Callable[[Replied], Any]:
    """A value of an answer's loop; null where there is none."""

    def of(replied: Replied, tokens: Sequence[int], text: str) -> int | None:
        assert replied.encoded.long is not None
        found = loop_of(tokens, limit=replied.encoded.long.limit, ended=_ended(replied, tokens, text))
        return None if found is None else value(found)

    return _free(of)


def _divergence(base: BaseAnswer, tokens: Sequence[int]) -> int | None:
    """The first position at which two answers differ, an end included; None if they are equal."""
    for place, (one, other) in enumerate(zip(base.tokens, tokens, strict=False)):
        if one != other:
            return place
    return None if len(base.tokens) == len(tokens) else min(len(base.tokens), len(tokens))


def _same_language(base: BaseAnswer, _: Sequence[int], text: str) -> bool | None:
    one, other = main_language(base.text), main_language(text)
    return None if one is None or other is None else one == other


def _kl(base: BaseAnswer, found: Followed) -> list[float]:
    return [
        kl_divergence(distribution, log_probs)
        for distribution, log_probs in zip(base.distributions, found.reference_log_probs, strict=True)
    ]


def _agrees(base: BaseAnswer, found: Followed) -> list[bool]:
    return [each.tokens[0] == best for each, best in zip(base.distributions, found.best, strict=True)]


LONG: Mapping[str, LongColumn] = {
    "text": LongColumn(pl.String, _free(lambda _, __, text: text)),
    "correct": LongColumn(pl.Boolean, _free(_correct)),
    "ids": LongColumn(_INTS, _free(lambda _, tokens, __: list(tokens))),
    "pieces": LongColumn(pl.List(pl.String), _free(lambda replied, tokens, _: replied.decoded(tokens))),
    "ended": LongColumn(pl.Boolean, _free(_ended)),
    "stopped": LongColumn(pl.Int32, _free(_stopped)),
    "loop_start": LongColumn(pl.Int32, _loop(lambda loop: loop.start)),
    "loop_period": LongColumn(pl.Int32, _loop(lambda loop: loop.period)),
    "script": LongColumn(pl.String, _free(lambda _, __, text: main_script(text))),
    "language": LongColumn(pl.String, _free(lambda _, __, text: main_language(text))),
    "layout": LongColumn(pl.String, _free(lambda _, __, text: layout(text))),
    "equal": LongColumn(pl.Boolean, _apart(lambda place: place is None)),
    "same_final": LongColumn(
        pl.Boolean, _compared(lambda base, _, text: final_answer(text) == final_answer(base.text))
    ),
    "same_script": LongColumn(
        pl.Boolean, _compared(lambda base, _, text: main_script(text) == main_script(base.text))
    ),
    "same_language": LongColumn(pl.Boolean, _compared(_same_language)),
    "same_layout": LongColumn(pl.Boolean, _compared(lambda base, _, text: layout(text) == layout(base.text))),
    "divergence": LongColumn(pl.Int32, _apart(lambda place: place)),
    "ranks": LongColumn(_INTS, _along(lambda found: [each.rank for each in found.placements])),
    "log_probs": LongColumn(_FLOATS, _along(lambda found: [each.log_prob for each in found.placements])),
    "margins": LongColumn(_FLOATS, _along(lambda found: [each.margin for each in found.placements])),
    "end_log_probs": LongColumn(_FLOATS, _along(lambda found: list(found.end_log_probs) or None)),
    "kl": LongColumn(_FLOATS, _to_base(_kl)),
    "top1": LongColumn(_BOOLS, _to_base(_agrees)),
    "top_tokens": LongColumn(
        pl.List(_INTS), _of_base(lambda found: [list(each.tokens) for each in found.distributions])
    ),
    "top_log_probs": LongColumn(
        pl.List(_FLOATS), _of_base(lambda found: [list(each.log_probs) for each in found.distributions])
    ),
    "tails": LongColumn(_FLOATS, _of_base(lambda found: [each.tail_mass for each in found.distributions])),
}
UNSHOWN = tuple(
    f"{CONTINUATION}_{name}"
    for name in ("top_tokens", "top_log_probs", "tails", "kl", "log_probs", "margins")
)
"""Long lists that only measures need."""
STORED = tuple(
    f"{CONTINUATION}_{name}" for name in ("ids", "ended", "text", "top_tokens", "top_log_probs", "tails")
)
"""The columns of base's rows that `BaseAnswer` is read from."""
