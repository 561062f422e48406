"""Encoding: joint, from one place, cut at the passage's end, and counted where a boundary moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomia.items import Item, build_items, read_questions
from anomia.items.prompts import write_prompt
from anomia.probe.encode import EncodedItem, PromptEncoding, encode_item
from anomia.probes import STUDY_PROBES
from tests.conftest import entry

Write = Callable[..., Path]


@pytest.fixture
def item(write_jsonl: Write) -> Item:
    file = write_jsonl([entry(n, answers=[f"Person{n}", f"Mr Person{n}"]) for n in range(20)])
    return build_items(read_questions(f"jsonl:{file}"), dataset="d", limit=10, seed=1)["english"].items[0]


def encode(item: Item, tokenizer: Any, form: PromptEncoding | None = None, **changes: Any) -> EncodedItem:
    exemplar = changes.pop("exemplar", item.question)
    return encode_item(
        item, tokenizer, form or PromptEncoding(), STUDY_PROBES, exemplar=exemplar, oracle=True, **changes
    )


def test_every_continuation_is_encoded_with_its_prompt(item: Item, tokenizer: Any) -> None:
    encoded = encode(item, tokenizer)
    prompt = write_prompt("open", item.question.context, item.question.question)
    assert encoded.ask.greedy["open"] == tuple(tokenizer(prompt).input_ids)
    for probe, kind in (("choice", "standard"), ("choice_hard", "hard"), ("choice_passage", "passage")):
        wanted = tuple(tuple(tokenizer(f"{prompt} {text}").input_ids) for text in item.options[kind])
        assert encoded.ask.options[probe].sequences == wanted
    answers = encoded.ask.options["answers"].sequences
    assert [tokenizer.decode(list(s), skip_special_tokens=True) for s in answers] == [
        f"{prompt} {text}" for text in item.question.answers
    ]


def test_all_options_are_scored_from_one_place(item: Item, tokenizer: Any) -> None:
    ask = encode(item, tokenizer).ask
    sets = [ask.options[name] for name in ("choice", "choice_hard", "choice_passage", "answers")]
    assert len({options.start for options in sets}) == 1
    start = sets[0].start
    assert len({sequence[:start] for options in sets for sequence in options.sequences}) == 1
    assert start == len(ask.greedy["open"])


def test_a_tokenizer_that_merges_over_the_boundary_is_counted(item: Item, tokenizer: Any) -> None:
    class Merging:
        """Takes the colon and the following space as one token, which no prompt ends with."""

        def __call__(self, text: str, **_: Any) -> Any:
            ids, at = [], 0
            while at < len(text):
                step = 2 if text[at : at + 2] == ": " else 1
                ids.append(sum(ord(char) << 20 * n for n, char in enumerate(text[at : at + step])))
                at += step
            return type("Encoding", (), {"input_ids": ids})()

    encoded = encode(item, Merging())
    assert encoded.boundary_mismatch
    assert encoded.ask.options["choice"].start == encoded.prompt_tokens - 1
    assert not encode(item, tokenizer).boundary_mismatch


def test_the_distinct_token_is_the_first_that_no_rival_shares(item: Item, tokenizer: Any) -> None:
    ask = encode(item, tokenizer).ask
    # All gold answers begin with "Person", so the first token tells nothing.
    gold = ask.options["answers"].sequences[0]
    first, distinct = ask.targets["gold"], ask.targets["gold_distinct"]
    assert gold[: len(first.prefix) + 1] == (*first.prefix, first.token)
    assert gold[: len(distinct.prefix) + 1] == (*distinct.prefix, distinct.token)
    assert len(distinct.prefix) > len(first.prefix)
    rivals = [s for s in ask.options["choice"].sequences if s != gold]
    assert all(rival[: len(distinct.prefix) + 1] != (*distinct.prefix, distinct.token) for rival in rivals)
    assert any(rival[: len(distinct.prefix)] == distinct.prefix for rival in rivals)


def test_an_answer_that_begins_another_option_has_no_distinct_token(
    tokenizer: Any, write_jsonl: Write
) -> None:
    entries = [entry(0, answers=["Ann"], distractors=["Ann Lee", "Bo", "Cy"]), *map(entry, range(1, 9))]
    items = build_items(read_questions(f"jsonl:{write_jsonl(entries)}"), dataset="d", limit=8, seed=1)[
        "english"
    ].items
    ann = next(item for item in items if item.question.id == "english-0")
    encoded = encode(ann, tokenizer)
    assert "gold_distinct" not in encoded.ask.targets
    assert encoded.gold_distinct_token is None


def test_a_long_passage_is_cut_at_its_end_once_for_all_forms(tokenizer: Any, write_jsonl: Write) -> None:
    context = (
        "Person0 came first. " + "Then nothing happened in the town. " * 60 + "Last of all came Person1."
    )
    entries = [entry(0, context=context), entry(1, context=context), *map(entry, range(2, 9))]
    items = build_items(read_questions(f"jsonl:{write_jsonl(entries)}"), dataset="d", limit=8, seed=1)[
        "english"
    ].items
    by_id = {item.question.id: encode(item, tokenizer, PromptEncoding(prompt_tokens=128)) for item in items}
    for number in (0, 1):
        encoded = by_id[f"english-{number}"]
        assert encoded.truncated
        assert 120 <= encoded.prompt_tokens <= 128
        assert context.startswith(encoded.context)
        assert encoded.gold_truncated == (number == 1)
        text = tokenizer.decode(list(encoded.ask.greedy["cued"]), skip_special_tokens=True)
        assert f"Context: {encoded.context}\n\nQuestion: {encoded.item.question.question}" in text
    short = next(encoded for name, encoded in by_id.items() if name not in ("english-0", "english-1"))
    assert not short.truncated
    assert not short.gold_truncated


def test_one_shot_shares_the_exemplar_and_keeps_its_limit(item: Item, tokenizer: Any) -> None:
    ask = encode(item, tokenizer).ask
    assert ask.greedy["one_shot"][: len(ask.shared_prefix)] == ask.shared_prefix
    assert len(ask.shared_prefix) > 20
    small = encode(item, tokenizer, PromptEncoding(one_shot_tokens=len(ask.greedy["one_shot"]) - 10)).ask
    assert len(small.greedy["one_shot"]) <= len(ask.greedy["one_shot"]) - 10
    assert "one_shot" not in encode(item, tokenizer, exemplar=None).ask.greedy


def test_chat_uses_the_template_once_and_no_leading_space(item: Item, tokenizer: Any) -> None:
    encoded = encode(item, tokenizer, PromptEncoding(chat=True))
    ids = encoded.ask.greedy["open"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    text = tokenizer.decode(list(ids))
    assert text.endswith("Answer in a few words:</user><nothink><answer>")
    option = encoded.ask.options["answers"].sequences[0]
    assert tokenizer.decode(list(option)).endswith(f"<answer>{item.question.gold}")


def test_only_what_is_asked_is_encoded(item: Item, tokenizer: Any) -> None:
    ask = encode_item(
        item, tokenizer, PromptEncoding(), ("open", "choice"), exemplar=item.question, oracle=True
    ).ask
    assert set(ask.greedy) == {"open"}
    assert set(ask.options) == {"choice"}
    assert not ask.targets
    assert ask.distribution is None
    assert not ask.beams
    assert not ask.samples
