"""A server's tokenizer is held against base's by counting: start tokens, another tokenizer, and what it doesn't tell."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from anomia.endpoint.abilities import Abilities, find_abilities
from anomia.endpoint.ask import ServedModel
from anomia.endpoint.client import Client
from anomia.endpoint.ready import check_same, known_by
from anomia.endpoint.tokens import TEXTS, Counted, count_early, count_tokens, served_differences
from anomia.errors import ModelError
from anomia.models.chat import render
from anomia.notes import CONFOUNDING
from tests.endpoint.fake_server import Fake

PROMPTS = {"english q0": "Context: The town lies in Peru.\n\nQuestion: Where?", "thai q1": "แม่น้ำ อยู่ที่ไหน"}
NONE = Abilities({}, echo=False, ranks=False)


@pytest.fixture
def with_settings(model_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """The tokenizer with parts of its tokenizer.json set to others."""

    def make(**parts: Any) -> Any:
        folder = tmp_path / "other"
        shutil.copytree(model_folder, folder, dirs_exist_ok=True)
        settings = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(settings | parts))
        return transformers.AutoTokenizer.from_pretrained(folder)

    return make


def confounding(counted: dict[str, Counted]) -> list[str]:
    return [row.what for row in served_differences(counted) if row.kind == CONFOUNDING]


def untold(counted: dict[str, Counted]) -> list[str]:
    return [row.what for row in served_differences(counted) if row.kind == "noted"]


@pytest.mark.parametrize("chat", [False, True])
def test_the_same_tokenizer_makes_as_many_tokens(client: Client, tokenizer: Any, chat: bool) -> None:
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=chat)
    assert {*PROMPTS} < {*counted} <= {*PROMPTS, *TEXTS}
    assert all(each.base == each.served for each in counted.values())
    assert confounding(counted) == []
    # Where a server ends can't be asked.
    assert untold(counted) == ["end tokens"]


def test_what_base_makes_is_what_it_is_asked(client: Client, tokenizer: Any) -> None:
    plain = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=False)
    chat = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=True)
    for name, text in PROMPTS.items():
        assert plain[name].base == len(tokenizer(text).input_ids)
        written = render(tokenizer, text)
        assert chat[name].base == len(tokenizer(written, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("chat", [False, True])
def test_a_server_without_start_token(
    fake: Fake, client: Client, tokenizer: Any, with_settings: Callable[..., Any], chat: bool
) -> None:
    fake.tokenizer = with_settings(post_processor=None)
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=chat)
    assert {each.served - each.base for each in counted.values() if each.served} == {-1}
    (row,) = [row for row in served_differences(counted) if row.kind == CONFOUNDING]
    assert (row.what, row.part) == ("tokens put around a text", "model")
    assert "1 fewer" in row.why
    base = counted["thai q1"].base
    assert (row.base, row.other) == (f"{base} tokens of 'thai q1'", f"{base - 1}, and 1 fewer in every text")


def test_a_server_with_a_start_token_that_base_lacks(
    client: Client, with_settings: Callable[..., Any]
) -> None:
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, with_settings(post_processor=None), chat=False)
    (row,) = [row for row in served_differences(counted) if row.kind == CONFOUNDING]
    assert row.what == "tokens put around a text"
    assert "1 more" in row.why


def test_a_server_with_another_tokenizer(
    fake: Fake, client: Client, tokenizer: Any, with_settings: Callable[..., Any]
) -> None:
    fake.tokenizer = with_settings(
        normalizer={"type": "Replace", "pattern": {"String": "  "}, "content": " "}
    )
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=False)
    (row,) = [row for row in served_differences(counted) if row.kind == CONFOUNDING]
    assert (row.what, row.part) == ("token ids", "model")
    assert "in 1 of 4 texts (digits, marks and spaces -" in row.why


@pytest.mark.parametrize("count", [None, 0, -1, True, "17", 3.5])
def test_a_server_that_does_not_tell(
    fake: Fake, client: Client, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, count: Any
) -> None:
    answer = fake.answer

    def without_count(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, values = answer(body)
        return status, values | {"usage": {} if count is None else {"prompt_tokens": count}}

    monkeypatch.setattr(fake, "answer", without_count)
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=False)
    assert {each.served for each in counted.values()} == {None}
    assert confounding(counted) == []
    assert untold(counted) == ["number of tokens", "end tokens"]


def test_counts_without_what_was_in_a_cache_are_not_relied_on(
    fake: Fake, client: Client, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama before 0.2 and of 0.30 counts the tokens that it had not in its cache: a start token never, after once."""
    answer, before = fake.answer, [tokenizer("a").input_ids]

    def cached(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, values = answer(body)
        ids = tokenizer(body["prompt"]).input_ids
        shared = next((n for n, (a, b) in enumerate(zip(before[-1], ids, strict=False)) if a != b), len(ids))
        before.append(ids)
        values["usage"]["prompt_tokens"] -= shared
        return status, values

    monkeypatch.setattr(fake, "answer", cached)
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=False)
    assert confounding(counted) == []
    assert "number of tokens" in untold(counted)


def test_a_text_that_the_server_refuses_is_left_out(fake: Fake, client: Client, tokenizer: Any) -> None:
    fake.longest = max(len(tokenizer(text).input_ids) for text in PROMPTS.values())
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, tokenizer, chat=False)
    assert {name for name, each in counted.items() if each.served is None} == {*TEXTS}
    assert untold(counted) == ["end tokens"]


@pytest.mark.parametrize("ollama", [False, True])
def test_few_requests_of_one_token(fake: Fake, client: Client, tokenizer: Any, ollama: bool) -> None:
    fake.ollama = ollama
    counted = count_early(client.url, "tiny", PROMPTS, tokenizer, chat=False)
    assert confounding(counted) == []
    assert len(fake.requests) <= 8
    lengths = {
        body["max_tokens"] if "max_tokens" in body else body["options"]["num_predict"]
        for body in fake.requests
    }
    assert lengths == {1}


def test_a_server_that_does_not_answer_is_not_waited_for(fake: Fake, client: Client, tokenizer: Any) -> None:
    fake.fail = lambda number: (503, {})
    with pytest.raises(ModelError, match="after 1 attempts"):
        count_early(client.url, "tiny", PROMPTS, tokenizer, chat=False)
    assert len(fake.requests) == 1


def test_a_start_token_that_base_s_template_leaves_out_is_not_counted(
    fake: Fake, client: Client, tokenizer: Any
) -> None:
    # The server is asked as it will be: without a start token before such prompts.
    fake.heeds_special = True
    mine = copy.deepcopy(tokenizer)
    mine.chat_template = tokenizer.chat_template.removeprefix("{{ bos_token }}")
    counted = count_tokens(ServedModel(client, NONE), PROMPTS, mine, chat=True)
    assert all(each.base == each.served for each in counted.values())
    fake.heeds_special = False
    with pytest.raises(ModelError, match="puts a start token before every prompt"):
        count_tokens(ServedModel(client, NONE), PROMPTS, mine, chat=True)


def test_other_counts_than_before_are_another_server(client: Client) -> None:
    found = find_abilities(client)
    before = {"a": Counted(7, 7), "b": Counted(9, 9), "c": Counted(4, None)}
    known = json.loads(json.dumps(known_by(found, before)))
    # Base's own counts may move with the date in a template.
    check_same(known, found, {"a": Counted(8, 8), "c": Counted(4, 3)}, arm="served")
    check_same(known, found, {name: Counted(7, None) for name in before}, arm="served")
    with pytest.raises(ModelError, match="served now makes a different number of tokens of the same texts"):
        check_same(known, found, {**before, "b": Counted(9, 8)}, arm="served")
    del known["offsets"]
    check_same(known, found, {**before, "b": Counted(9, 8)}, arm="served")
