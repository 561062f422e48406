"""Encoding: from an item to the token ids that are sent to a model.

Every continuation is encoded together with its prompt, and all options of an item are scored from the same
position: the end of the longest token prefix that the prompt and all joint encodings share. This needs no rule
about leading spaces at token boundaries, and items whose boundary moves are counted.
"""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from anomia.errors import ModelError
from anomia.grade import CONTAINMENT, Grading, normalize
from anomia.items.item import Item, Message, Question
from anomia.items.prompts import (
    SOLVED,
    Templates,
    one_shot_prefix,
    one_shot_prompt,
    write_prompt,
)
from anomia.models.chat import answer_gap, leaves_thinking_open, render
from anomia.probe.ask import Ask, OptionSet, RankTarget, TokenIds
from anomia.probe.continuation import BaseAnswer, LongQuestion
from anomia.probe.shared import common_prefix, distinct_position, scoring_start
from anomia.probes import (
    BY_NAME,
    CHOICES,
    CONTINUATION,
    GENERATED,
    NO_QUESTION,
    NO_QUESTION_ENDING,
    OPTION_KINDS,
    ORACLES,
    RANK,
    SAMPLED,
    SEARCHES,
    CandidatesShown,
    Probe,
    asked_by,
)

Encode = Callable[[str], TokenIds]


@dataclass(frozen=True, slots=True)
class PromptEncoding:
    """How prompts become tokens. Lengths are in tokens, except for the two character limits of one-shot.

    positions: the longest sequence that the model takes, prompt and answer together; None for no limit.
    system: a system message for the chat template. templates, grading: the study's wording, and how it grades replies.
    today: the date given to chat templates; None for the current date.
    """

    chat: bool = False
    system: str = ""
    positions: int | None = None
    max_new_tokens: int = 32
    continuation_tokens: int = 512
    stop_at_loops: bool = False
    prompt_tokens: int = 512
    one_shot_tokens: int = 1024
    one_shot_characters: int = 500
    exemplar_characters: int = 300
    templates: Templates = field(default_factory=dict)
    grading: Grading = CONTAINMENT
    today: datetime.date | None = None


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """An item as sent to a model, and the side effects of encoding it.

    context: the passage as sent. prompts: the prompt texts by probe, before any chat template; rendered: the same
    with the chat template applied. gap: the text between a rendered prompt and an answer. thinking: the prompt
    itself opens a `<think>` span. truncated: the end of the passage was cut. gold_truncated: the cut removed the
    gold answer from the passage. boundary_mismatch: scoring starts before the end of the prompt.
    gold_token, gold_over_limit: None for a prompt that is sent as it is. gold_over_limit: no accepted answer fits into
    the tokens that may be generated. grading: how replies are graded.
    long: the prompt to be answered at length; None if that isn't asked or the model has no room for an answer.
    """

    item: Item
    ask: Ask
    context: str
    prompts: Mapping[str, str]
    rendered: Mapping[str, str]
    gap: str
    prompt_tokens: int
    thinking: bool
    truncated: bool
    gold_truncated: bool
    boundary_mismatch: bool
    gold_token: int | None
    gold_distinct_token: int | None
    gold_over_limit: bool | None = False
    grading: Grading = CONTAINMENT
    long: LongQuestion | None = None

    @property
    def asked(self) -> Ask:
        """All that is sent to a model: `ask`, or the ask in `long` for a prompt that is only answered at length."""
        return self.ask if self.long is None or self.ask.greedy else self.long.ask

    @property
    def prompt(self) -> str:
        """The open prompt."""
        return self.prompts["open"]


def encode_item(
    item: Item,
    tokenizer: Any,
    form: PromptEncoding,
    probes: Collection[str],
    *,
    exemplar: Question | None,
    oracle: bool,
    reference_tokens: TokenIds = (),
    base_answer: BaseAnswer | None = None,
    own: bool = False,
) -> EncodedItem:
    """Encodes everything that one item asks.

    Args:
        item: the item.
        tokenizer: the tokenizer of the model under test.
        form: chat or plain, and the limits.
        probes: names from `STUDY_PROBES`.
        exemplar: the solved example for one-shot prompts; None leaves that probe out.
        oracle: whether to ask this item with beams and samples.
        reference_tokens: tokens whose probability is compared with base's.
        base_answer: base's long answer, to take an arm along.
        own: whether the model is base, which is taken along its own long answer.

    Raises:
        ModelError: the item is too long for the model even without its passage, or the chat template fails on it.
    """
    if item.question.as_is:
        return _encode_prompt(item, tokenizer, form, base_answer, own)
    limit = form.prompt_tokens
    while True:
        try:
            encoded = _encode_cut(
                item, tokenizer, replace(form, prompt_tokens=limit), probes, exemplar, oracle
            )
        except ModelError as error:
            raise ModelError(f"item {item.question.id!r}: {error}") from None
        ask = replace(encoded.ask, reference_tokens=reference_tokens if RANK in probes else ())
        excess = _longest(ask, form.max_new_tokens) - (form.positions or math.inf)
        if excess <= 0:
            long = None
            if CONTINUATION in probes:
                long = _long(item.question.id, ask.greedy["open"], form, base_answer, own)
            return replace(encoded, ask=ask, long=long)
        if not encoded.context:
            raise ModelError(
                f"item {item.question.id!r} is {int(excess)} tokens longer than the {form.positions} that this "
                "model takes, even without its passage; leave the item out, or ask fewer probes"
            )
        limit = max(0, min(limit, encoded.prompt_tokens) - int(excess))


def check_written(question: Question, *, chat: bool) -> None:
    """Refuse a conversation without a chat template.

    Raises:
        ModelError: a prompt has several messages, and `chat` is false.
    """
    if question.messages and not chat:
        raise ModelError(
            f"item {question.id!r} is a conversation of {len(question.messages)} messages, which only a chat template "
            "can write; give --chat"
        )


def _encode_prompt(
    item: Item, tokenizer: Any, form: PromptEncoding, base: BaseAnswer | None, own: bool
) -> EncodedItem:
    """Encodes a prompt that is sent as it is, or as the chat template writes it, and never cut."""
    question = item.question
    check_written(question, chat=form.chat)
    try:
        rendered = _written(tokenizer, question.messages or question.question, form)
    except ModelError as error:
        raise ModelError(f"item {question.id!r}: {error}") from None
    ids = _ids(tokenizer, rendered, chat=form.chat)
    if not ids:
        raise ModelError(_no_token(item, rendered))
    encoded = EncodedItem(
        item=item,
        ask=Ask(item_id=question.id),
        context="",
        prompts={"open": question.question},
        rendered={"open": rendered},
        gap=_gap(tokenizer, chat=form.chat),
        prompt_tokens=len(ids),
        thinking=form.chat and leaves_thinking_open(tokenizer),
        truncated=False,
        gold_truncated=False,
        boundary_mismatch=False,
        gold_token=None,
        gold_distinct_token=None,
        gold_over_limit=None,
        grading=form.grading,
    )
    long = _long(question.id, ids, form, base, own)
    if long is None:
        raise ModelError(
            f"item {question.id!r} has {len(ids)} tokens and the model takes {form.positions}, which leaves no room "
            "for an answer; shorten it or leave it out"
        )
    return replace(encoded, long=long)


def _long(
    item_id: str, prompt: TokenIds, form: PromptEncoding, base: BaseAnswer | None, own: bool
) -> LongQuestion | None:
    """An item's prompt, to be answered with as many tokens as the study and the model's positions allow."""
    room = math.inf if form.positions is None else form.positions - len(prompt)
    limit = int(min(form.continuation_tokens, room))
    return LongQuestion(item_id, prompt, limit, base, own, form.stop_at_loops) if limit > 0 else None


def _longest(ask: Ask, max_new_tokens: int) -> int:
    """The length of the longest sequence of an ask, including tokens to be generated."""
    prompts = [*ask.greedy.values(), *ask.beams.values(), *ask.samples.values()]
    scored = [sequence for options in ask.options.values() for sequence in options.sequences]
    return max([*(len(prompt) + max_new_tokens for prompt in prompts), *map(len, scored)])


def _encode_cut(
    item: Item,
    tokenizer: Any,
    form: PromptEncoding,
    probes: Collection[str],
    exemplar: Question | None,
    oracle: bool,
) -> EncodedItem:
    """Encodes the item with its passage cut so that the open prompt stays within `form.prompt_tokens`."""
    question, asked = item.question, asked_by(probes)
    encode = encoder(tokenizer, form)
    words = form.templates

    def opened(context: str) -> str:
        return write_prompt("open", context, question.question, templates=words)

    context = _fit(question.context, opened, encode, form.prompt_tokens)
    prompt = opened(context)
    prompt_ids = encode(prompt)
    if not prompt_ids:
        raise ModelError(_no_token(item, question.question))
    continue_ = _continuer(tokenizer, prompt, form)

    option_texts = _options(item, context)
    texts = [
        *question.answers,
        item.control,
        *(text for options in option_texts.values() for text in options),
    ]
    joint = {text: continue_(text) for text in texts}
    nothing = continue_("")
    for text, sequence in joint.items():
        if sequence == nothing and text.strip():
            raise ModelError(_no_token(item, text))
    start = scoring_start(prompt_ids, list(joint.values()))
    gold = joint[question.gold]
    rivals = [joint[text] for text in item.options["standard"] if text != question.gold]

    options = {
        probe: OptionSet(start, tuple(joint[text] for text in option_texts[probe]))
        for probe in CHOICES
        if probe in asked and probe in option_texts
    }
    targets: dict[str, RankTarget] = {}
    if RANK in asked:
        options["answers"] = OptionSet(start, tuple(joint[text] for text in question.answers))
        targets["gold"] = RankTarget(gold[:start], gold[start])
        targets |= {
            f"answer_{n}": RankTarget(gold[:start], joint[text][start])
            for n, text in enumerate(question.answers)
            if n
        }
        targets["control"] = RankTarget(gold[:start], joint[item.control][start])
        control_rivals = [sequence for sequence in (gold, *rivals) if sequence != joint[item.control]]
        targets |= _distinct("gold_distinct", gold, [*rivals, joint[item.control]], start)
        targets |= _distinct("control_distinct", joint[item.control], control_rivals, start)
    if not asked.isdisjoint(NO_QUESTION):
        asked_with = {probe: option_texts[probe] for probe in CHOICES if probe in options}
        options |= _bare_options(asked_with, context, tokenizer, encode, form)

    prompts = {"open": prompt}
    written = [BY_NAME[name] for name in (*GENERATED, *(ORACLES if oracle else ())) if name in asked]
    for probe in written:
        if probe.prompt != "open" and probe.needs != "example":
            prompts[probe.name] = _write(probe, item, context, words)
    shared_prefix: TokenIds = ()
    examples = [probe for probe in written if probe.needs == "example"]
    if examples and exemplar is not None:
        solved, shared_prefix = _example_prompts(examples, item, exemplar, encode, form)
        prompts |= solved
    sent = {
        probe.name: prompt_ids if probe.prompt == "open" else encode(prompts[probe.name])
        for probe in written
        if probe.prompt == "open" or probe.name in prompts
    }
    if not options.keys().isdisjoint(NO_QUESTION):
        prompts["no_question"] = write_prompt("no_question", context, templates=words)
    rendered = _rendered(tokenizer, prompts, form)
    return EncodedItem(
        item=item,
        ask=Ask(
            item_id=question.id,
            greedy={name: sent[name] for name in GENERATED if name in sent},
            options=options,
            targets=targets,
            distribution=gold[:start] if RANK in asked else None,
            beams={name: sent[name] for name in SEARCHES if name in sent},
            samples={name: sent[name] for name in SAMPLED if name in sent},
            shared_prefix=shared_prefix,
        ),
        context=context,
        prompts=prompts,
        rendered=rendered,
        gap=_gap(tokenizer, chat=form.chat),
        prompt_tokens=len(prompt_ids),
        thinking=form.chat and leaves_thinking_open(tokenizer),
        truncated=context != question.context,
        gold_truncated=_stands_in(question.gold, question.context) and not _stands_in(question.gold, context),
        boundary_mismatch=start < len(prompt_ids),
        gold_token=gold[start],
        gold_distinct_token=targets["gold_distinct"].token if "gold_distinct" in targets else None,
        gold_over_limit=all(len(joint[text]) - start > form.max_new_tokens for text in question.answers),
        grading=form.grading,
    )


def _no_token(item: Item, text: str) -> str:
    return (
        f"item {item.question.id!r}: the tokenizer gives no token for {text[:60]!r}; leave the item out, or give the "
        "model the tokenizer that it was trained with"
    )


def _options(item: Item, context: str) -> dict[str, Sequence[str]]:
    """The options of an item, by probe, for probes whose options the item has."""
    found: dict[str, Sequence[str]] = {
        probe: item.options[kind] for probe, kind in CHOICES.items() if kind in item.options
    }
    if context == item.question.context:
        return found
    # Same-passage options that were in the part of the passage cut off no longer come from the passage.
    from_passage = [kind.probe for kind in OPTION_KINDS if kind.needs == "passage" and kind.probe in found]
    for probe in from_passage:
        if not all(_stands_in(text, context) for text in found[probe] if text != item.question.gold):
            del found[probe]
    return found


def _candidates(item: Item, which: CandidatesShown) -> Sequence[str]:
    """The candidates that a prompt lists."""
    if which == "unrelated":
        return item.unrelated
    options = item.options["standard"] if which else ()
    return [text for text in options if which == "options" or text != item.question.gold]


def encoder(tokenizer: Any, form: PromptEncoding) -> Encode:
    """Returns a function from a prompt to its token ids, which applies the chat template if the form has one."""
    return lambda prompt: _ids(tokenizer, _written(tokenizer, prompt, form), chat=form.chat)


def _written(tokenizer: Any, prompt: str | Sequence[Message], form: PromptEncoding) -> str:
    """A prompt with the chat template applied, if there is one."""
    if form.chat:
        return render(tokenizer, prompt, today=form.today, system=form.system)
    assert isinstance(prompt, str)
    return prompt


def _ids(tokenizer: Any, text: str, *, chat: bool) -> TokenIds:
    """The token ids of a text. chat: a chat template has written it, with its special tokens."""
    if chat:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)
    return _without_end(tokenizer, tokenizer(text).input_ids)


def _rendered(tokenizer: Any, prompts: Mapping[str, str], form: PromptEncoding) -> Mapping[str, str]:
    """Prompts with the chat template applied, if there is one."""
    return {name: _written(tokenizer, prompt, form) for name, prompt in prompts.items()}


def _gap(tokenizer: Any, *, chat: bool) -> str:
    """The text between a prompt and an answer: a space, unless a chat template decides."""
    return answer_gap(tokenizer) if chat else " "


def _continuer(tokenizer: Any, prompt: str, form: PromptEncoding) -> Encode:
    """Returns a function from an answer to the joint token ids of prompt and answer."""
    opened = _written(tokenizer, prompt, form) + _gap(tokenizer, chat=form.chat)
    return lambda answer: _ids(tokenizer, f"{opened}{answer}", chat=form.chat)


def _without_end(tokenizer: Any, ids: Sequence[int]) -> TokenIds:
    """Drops the end token that some tokenizers append to every text; nothing could continue after it."""
    ended = len(ids) > 1 and ids[-1] == getattr(tokenizer, "eos_token_id", None)
    return tuple(ids[:-1] if ended else ids)


def _fit(context: str, form: Callable[[str], str], encode: Encode, limit: int) -> str:
    """The longest start of the passage that keeps the prompt within `limit` tokens."""
    if len(encode(form(context))) <= limit:
        return context
    low, high = 0, len(context)
    while low < high - 1:
        middle = (low + high) // 2
        if len(encode(form(context[:middle]))) <= limit:
            low = middle
        else:
            high = middle
    # A cut before a combining mark would change the character it belongs to.
    while 0 < low < len(context) and unicodedata.category(context[low]).startswith("M"):
        low -= 1
    return context[:low].rstrip()


def _write(probe: Probe, item: Item, context: str, templates: Templates) -> str:
    """The prompt of a probe in a study's wording."""
    candidates = _candidates(item, probe.candidates)
    return write_prompt(probe.prompt, context, item.question.question, candidates, templates=templates)


def _example_prompts(
    probes: Sequence[Probe], item: Item, exemplar: Question, encode: Encode, form: PromptEncoding
) -> tuple[Mapping[str, str], TokenIds]:
    """The prompts of the probes that need an example, on the same passage, and the tokens of the solved example."""
    question, characters, words = item.question, form.exemplar_characters, form.templates

    def solved(context: str) -> str:
        return one_shot_prompt(
            exemplar, context, question.question, exemplar_characters=characters, templates=words
        )

    limit = form.one_shot_tokens
    if form.positions is not None:
        limit = min(limit, form.positions - form.max_new_tokens)
    context = _fit(question.context[: form.one_shot_characters], solved, encode, limit)
    prompt = solved(context)
    prompt_ids = encode(prompt)
    prefix = encode(one_shot_prefix(exemplar, exemplar_characters=characters, templates=words))
    # One token fewer: the last token of the prefix may merge with the text that follows in some items only.
    shared = min(common_prefix([prompt_ids, prefix]), len(prefix) - 1)
    prompts = {
        probe.name: prompt if probe.prompt == SOLVED else _write(probe, item, context, words)
        for probe in probes
    }
    return prompts, prompt_ids[: max(0, shared)]


def _bare_options(
    texts: Mapping[str, Sequence[str]], context: str, tokenizer: Any, encode: Encode, form: PromptEncoding
) -> dict[str, OptionSet]:
    """Options after the passage alone, without the question, all scored from the same position.

    texts: options, by the probe that asks them with the question.
    """
    if not texts:
        return {}
    prompt = write_prompt("no_question", context, templates=form.templates)
    continue_ = _continuer(tokenizer, prompt, form)
    joint = {text: continue_(text) for options in texts.values() for text in options}
    start = scoring_start(encode(prompt), list(joint.values()))
    return {
        f"{probe}{NO_QUESTION_ENDING}": OptionSet(start, tuple(joint[text] for text in options))
        for probe, options in texts.items()
    }


def _distinct(name: str, sequence: TokenIds, rivals: Sequence[TokenIds], start: int) -> dict[str, RankTarget]:
    """The first token from `start` on at which a sequence differs from all rivals, as a target; empty if none."""
    position = distinct_position(sequence, rivals, start)
    return {} if position is None else {name: RankTarget(sequence[:position], sequence[position])}


def _stands_in(answer: str, context: str) -> bool:
    return normalize(answer) in normalize(context)
