"""Decoding: from generated tokens to the texts that are graded. The counterpart of `probe.encode`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anomia.grade import Stripped, strip_thinking
from anomia.probe.ask import Reply
from anomia.probe.encode import EncodedItem


class Decoded(NamedTuple):
    """Generated texts without special tokens, thinking, and anything after a stop string.

    greedy: by probe. open_tokens: token ids of the open answer. beams: by probe, in descending order of score.
    samples: by probe and seed, ordered by sample index. refused: a server's reason for refusing, by probe.
    ended: whether a server's long answer ended; None where the answer's length tells.
    """

    greedy: Mapping[str, Stripped]
    open_tokens: Sequence[int] = ()
    beams: Mapping[str, Sequence[tuple[str, float]]] = {}
    samples: Mapping[str, Mapping[int, Sequence[str]]] = {}
    refused: Mapping[str, str] = {}
    ended: bool | None = None


def decode_reply(encoded: EncodedItem, reply: Reply, tokenizer: Any) -> Decoded:
    """Decodes the generated tokens of a reply."""

    def text(tokens: Sequence[int]) -> Stripped:
        return _answer(encoded, tokenizer, tokens)

    return Decoded(
        greedy={name: text(tokens) for name, tokens in reply.greedy.items()},
        open_tokens=reply.greedy.get("open", ()),
        beams={
            name: [(text(beam.tokens).text, beam.score) for beam in beams]
            for name, beams in reply.beams.items()
        },
        samples={
            name: {seed: [text(tokens).text for tokens in drawn] for seed, drawn in by_seed.items()}
            for name, by_seed in reply.samples.items()
        },
    )


def _answer(encoded: EncodedItem, tokenizer: Any, tokens: Sequence[int]) -> Stripped:
    """Decodes tokens without special tokens and thinking."""
    thought = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>")}
    hidden = set(tokenizer.all_special_ids) - thought
    text = tokenizer.decode([token for token in tokens if token not in hidden], skip_special_tokens=False)
    return answer_of(encoded, text)


def answer_of(encoded: EncodedItem, text: str) -> Stripped:
    """Extracts the answer from a generated text: drops thinking and anything after a stop string."""
    answer, unclosed = strip_thinking(f"<think>{text}" if encoded.thinking else text)
    return Stripped(encoded.grading.cut(answer), unclosed)
