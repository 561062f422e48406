"""Ask a served model the same prompts that an engine asks a loaded one, as texts."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple

from anomia.endpoint.abilities import Abilities, EchoedTokens, UntoldError, score
from anomia.endpoint.client import Client, RequestRefusedError
from anomia.endpoint.pool import in_order
from anomia.errors import ModelError
from anomia.probe.ask import Decoding, Followed, Placement, Reply, TokenIds
from anomia.probe.continuation import LongQuestion
from anomia.probe.decode import Decoded, answer_of
from anomia.probe.encode import EncodedItem
from anomia.probe.shared import distinct_position, scoring_start
from anomia.probes import ALONG, CHOICES, CONTINUATION, NO_QUESTION

# A byte of a character in vocabularies of SentencePiece; marks of a space, a line break and a tab in vocabularies.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_MARKS = str.maketrans({"\u2581": " ", "\u0120": " ", "\u010a": "\n", "\u0109": "\t"})


class ServedModel(NamedTuple):
    """A model on a server, and what the server supports."""

    client: Client
    abilities: Abilities


def answer_items(
    served: ServedModel, encoded: Sequence[EncodedItem], tokenizer: Any, decoding: Decoding, *, chat: bool
) -> Iterator[tuple[Reply, Decoded]]:
    """Ask a served model about items; yield its answers in order, with as many requests at a time as the client allows.

    If the server refuses a request, such as a prompt that is too long, that probe of the item stays unanswered.

    Args:
        served: the model.
        encoded: the items, encoded with base's tokenizer; their texts are sent.
        tokenizer: base's, for its start token and for counting tokens.
        decoding: limits on generation and sampling.
        chat: whether the prompts went through base's chat template.

    Raises:
        ModelError: the server can't be reached any more, refuses every request, or adds a start token to chat prompts
            although base's template starts without one.
    """
    refused: list[str] = []
    answered = False
    if chat:
        served = without_second_start(served, tokenizer, [item.rendered["open"] for item in encoded])

    def answer(item: EncodedItem) -> tuple[Reply, Decoded]:
        return _answer_item(served, item, tokenizer, decoding, chat=chat)

    for reply, decoded in in_order(
        answer, encoded, threads=served.client.concurrency, stop=served.client.stop
    ):
        refused += decoded.refused.values()
        answered |= bool(decoded.greedy or any(decoded.samples.values()) or reply.option_log_probs)
        yield reply, decoded
    if refused and not answered:
        raise ModelError(refused[0])


def _answer_item(
    served: ServedModel, encoded: EncodedItem, tokenizer: Any, decoding: Decoding, *, chat: bool
) -> tuple[Reply, Decoded]:
    client, plain = served.client, served.abilities.plain
    texts = {name: as_sent(tokenizer, text, chat=chat) for name, text in encoded.rendered.items()}
    length = {"max_tokens": decoding.max_new_tokens}
    refused: dict[str, str] = {}
    greedy = {}
    for name in encoded.ask.greedy:
        with _noting(refused, name):
            greedy[name] = answer_of(
                encoded, client.complete(texts[name], temperature=0.0, **length, **plain)["text"]
            )
    drawn = {"temperature": decoding.temperature, "top_p": decoding.top_p, **length, **plain}
    samples: dict[str, dict[int, list[str]]] = {name: {} for name in encoded.ask.samples}
    for name, by_seed in samples.items():
        prompt = texts[name if name in texts else "open"]
        for seed in decoding.sample_seeds:
            with _noting(refused, name):
                seeds = (_seed(seed, encoded.ask.item_id, n) for n in range(decoding.num_samples))
                found = [client.complete(prompt, seed=each, **drawn)["text"] for each in seeds]
                by_seed[seed] = [answer_of(encoded, text).text for text in found]
    reply = Reply(encoded.ask.item_id)
    if served.abilities.echo:
        with _noting(refused, "choice and ranks"):
            reply = _scored(served, encoded, texts)
    long = None
    if encoded.long is not None:
        with _noting(refused, CONTINUATION):
            long = _at_length(served, encoded.long, texts["open"], tokenizer)
            greedy[CONTINUATION] = answer_of(encoded, long.text)
            reply = replace(reply, greedy={CONTINUATION: long.tokens})
        # A server that refuses base's answer, as too long, has still answered.
        with _noting(refused, ALONG):
            forced = _along(served, encoded.long, texts["open"], tokenizer)
            reply = replace(reply, forced=forced)
    opened = tokenizer(greedy["open"].text, add_special_tokens=False).input_ids if "open" in greedy else ()
    decoded = Decoded(greedy=greedy, open_tokens=tuple(opened), samples=samples, refused=refused)
    return reply, decoded if long is None else decoded._replace(ended=long.ended)


class _LongAnswer(NamedTuple):
    """A long answer of a server: its text, that text's tokens, and whether it ended."""

    text: str
    tokens: TokenIds
    ended: bool


def _at_length(served: ServedModel, question: LongQuestion, prompt: str, tokenizer: Any) -> _LongAnswer:
    """Ask for a long answer.

    Servers return text. A text that equals base's has base's tokens; another is tokenized anew, so that it may seem to
    leave base's answer a token earlier or later than it did. prompt: as sent.
    """
    plain = served.abilities.plain
    found = served.client.complete(prompt, temperature=0.0, max_tokens=question.limit, **plain)
    text, reason = found["text"], found.get("finish_reason")
    tokens = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    ended = len(tokens) < question.limit if reason is None else reason != "length"
    if question.base is not None:
        base = tokenizer.decode(question.base.tokens, skip_special_tokens=True)
        if text == base and ended == question.base.ended:
            tokens = question.base.tokens
    return _LongAnswer(text, tokens, ended)


def _along(served: ServedModel, question: LongQuestion, prompt: str, tokenizer: Any) -> Followed | None:
    """Rank the tokens of base's answer; None if there are none or the server reports no ranks. prompt: as sent.

    Raises:
        UntoldError: the server cuts base's answer into other tokens than base wrote.
    """
    if question.base is None or not served.abilities.ranks or not question.base.tokens:
        return None
    base = tokenizer.decode(question.base.tokens, skip_special_tokens=True)
    along = score(served.client, f"{prompt}{base}", served.abilities)
    alone = score(served.client, prompt, served.abilities)
    start = scoring_start(alone.tokens, [along.tokens], first=1)
    if not _same_tokens(along, start, question.base.tokens, tokenizer):
        raise UntoldError("the server cuts base's answer into other tokens than base wrote")
    placed = (_placement(along, place) for place in range(start, len(along.tokens)))
    return Followed(placements=tuple(placed), best=(), end_log_probs=())


def _same_tokens(along: EchoedTokens, start: int, tokens: TokenIds, tokenizer: Any) -> bool:
    """Whether a server's tokens from `start` on are these tokens of base: by their ids, or else piece by piece.

    A server with another vocabulary, as of a converted model, may have the same pieces under other ids.
    """
    theirs = along.tokens[start:]
    if theirs == tuple(map(str, tokens)):
        return True
    if len(theirs) != len(tokens):
        return False
    pieces = [_plain_piece(text) for text in along.texts[start:]]
    own = [
        {_plain_piece(tokenizer.decode([token])), _plain_piece(tokenizer.convert_ids_to_tokens(token))}
        for token in tokens
    ]
    # A piece of a character can't be compared, so only the pieces around it tell.
    known = [
        (piece, names)
        for piece, names in zip(pieces, own, strict=True)
        if piece is not None and None not in names
    ]
    return bool(known) and None not in along.texts[start:] and all(piece in names for piece, names in known)


def _plain_piece(text: str | None) -> str | None:
    """A token's text without the marks of its vocabulary and the space that decoding may drop; None for part of a
    character.
    """
    if not text or "\ufffd" in text or _BYTE.fullmatch(text):
        return None
    return text.translate(_MARKS).removeprefix(" ")


@contextmanager
def _noting(refused: dict[str, str], name: str) -> Iterator[None]:
    """Record the server's reason if it refuses a probe."""
    try:
        yield
    except (RequestRefusedError, UntoldError) as error:
        refused[name] = str(error)


def _scored(served: ServedModel, encoded: EncodedItem, sent: Mapping[str, str]) -> Reply:
    """Score options and answers after their prompt, from the end of the token prefix that all share with the prompt.

    sent: the prompts by name, as sent. Log probabilities are in nats, one tuple of tokens per text.
    """
    question, asked = encoded.item.question, encoded.ask.options
    texts = {name: encoded.item.options[(CHOICES | NO_QUESTION)[name]] for name in asked if name != "answers"}
    if "answers" in asked:
        texts["answers"] = question.answers
    by_prompt: dict[str, dict[str, EchoedTokens]] = {}
    starts: dict[str, int] = {}
    for prompt in ("open", "no_question"):
        mine = [name for name in texts if (name in NO_QUESTION) == (prompt == "no_question")]
        wanted = dict.fromkeys(text for name in mine for text in texts[name])
        if not wanted:
            continue
        if prompt == "open" and "answers" in mine:
            wanted |= dict.fromkeys([encoded.item.control, *encoded.item.options["standard"]])
        found = {
            text: score(served.client, f"{sent[prompt]}{encoded.gap}{text}", served.abilities)
            for text in wanted
        }
        alone = score(served.client, sent[prompt], served.abilities)
        # Servers give no probability for the first token of a prompt.
        starts[prompt] = scoring_start(alone.tokens, [each.tokens for each in found.values()], first=1)
        by_prompt[prompt] = found
    log_probs = {}
    for name, options in texts.items():
        prompt = "no_question" if name in NO_QUESTION else "open"
        log_probs[name] = tuple(_from(by_prompt[prompt][text], starts[prompt]) for text in options)
    finite = all(math.isfinite(p) for options in log_probs.values() for option in options for p in option)
    placements: dict[str, Placement] = {}
    if served.abilities.ranks and "answers" in asked:
        places = {"gold": question.gold, "control": encoded.item.control} | {
            f"answer_{n}": text for n, text in enumerate(question.answers) if n
        }
        placements = {
            name: _placement(by_prompt["open"][text], starts["open"]) for name, text in places.items()
        }
        rivals = [text for text in encoded.item.options["standard"] if text != question.gold]
        for name, text, others in (
            ("gold_distinct", question.gold, [*rivals, encoded.item.control]),
            ("control_distinct", encoded.item.control, [question.gold, *rivals]),
        ):
            here = by_prompt["open"][text]
            unlike = [
                by_prompt["open"][other].tokens
                for other in others
                if other != text and other in by_prompt["open"]
            ]
            place = distinct_position(here.tokens, unlike, starts["open"])
            if place is not None:
                placements[name] = _placement(here, place)
    return Reply(encoded.ask.item_id, option_log_probs=log_probs, placements=placements, finite=finite)


def as_sent(tokenizer: Any, text: str, *, chat: bool) -> str:
    """A prompt as sent to a server: without the template's BOS if the tokenizer adds one, since servers add it too."""
    if not chat:
        return text
    return text.removeprefix(tokenizer.bos_token) if _adds_start(tokenizer) else text


def _adds_start(tokenizer: Any) -> bool:
    """Whether a tokenizer adds a BOS to a text."""
    start = getattr(tokenizer, "bos_token_id", None)
    return start is not None and list(tokenizer("a").input_ids[:1]) == [start]


def without_second_start(served: ServedModel, tokenizer: Any, rendered: Sequence[str]) -> ServedModel:
    """Set up a server for chat prompts: if base's template starts without a start token, the server must add none.

    Args:
        served: the model.
        tokenizer: base's.
        rendered: prompts as base's template writes them.

    Raises:
        ModelError: the server adds one anyway, or doesn't report enough to tell.
    """
    if not _adds_start(tokenizer) or all(text.startswith(tokenizer.bos_token) for text in rendered):
        return served
    plain, alone = served.abilities.plain, len(tokenizer("a", add_special_tokens=False).input_ids)
    for asked in ({**plain, "add_special_tokens": False}, plain):
        with suppress(RequestRefusedError):
            usage = served.client.complete("a", max_tokens=1, temperature=0.0, **asked)["usage"]
            if usage.get("prompt_tokens") == alone:
                return served._replace(abilities=served.abilities._replace(plain=asked))
    raise ModelError(
        f"endpoint: {served.client.url} puts a start token before every prompt, and base's chat template begins "
        "without one, so the two would be asked differently; begin base's chat_template.jinja with "
        f"{{{{ bos_token }}}}, or serve the model with a tokenizer that adds none"
    )


def _from(sequence: EchoedTokens, start: int) -> tuple[float, ...]:
    return tuple(math.nan if p is None else p for p in sequence.log_probs[start:])


def _placement(sequence: EchoedTokens, place: int) -> Placement:
    """The rank that the server reports. vLLM counts tokens with equal logits as better, so it is an upper bound."""
    rank, log_prob, margin = sequence.ranks[place], sequence.log_probs[place], sequence.margins[place]
    return Placement(rank or 1, 0, math.nan if log_prob is None else log_prob, margin or 0.0)


def _seed(seed: int, item_id: str, number: int) -> int:
    """The seed of one sample, from the study's seed, the item and the sample's number alone."""
    digest = hashlib.sha256(f"{seed}:{item_id}:{number}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1
