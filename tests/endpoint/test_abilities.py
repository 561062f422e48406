"""What a server can tell is found out, whatever it is; passing faults are not taken for inability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anomia.endpoint.abilities import PLAIN, Abilities, find_abilities
from anomia.endpoint.client import Client, client_from_environment
from anomia.endpoint.ready import check_same, known_by, notes_of
from anomia.errors import ModelError
from tests.endpoint.fake_server import Fake


@pytest.mark.parametrize(("echo", "ranks"), [(True, False), (True, True), (False, False)])
def test_log_probabilities_and_ranks(fake: Fake, client: Client, echo: bool, ranks: bool) -> None:
    fake.echo, fake.ranks = echo, ranks
    found = find_abilities(client)
    assert (found.echo, found.ranks) == (echo, ranks)
    notes = " ".join(notes_of(found))
    assert ("choice and ranks are not measured" in notes) != echo
    assert ("ranks are the server's own" in notes) == ranks
    assert "status 400" in notes or echo


@pytest.mark.parametrize(
    ("refuses", "taken", "defaults"),
    [
        (set(), PLAIN, ()),
        # SGLang and older versions of vLLM.
        ({("top_k", 0)}, PLAIN | {"top_k": -1}, ()),
        ({"repeat_penalty"}, {name: PLAIN[name] for name in ("top_k", "min_p", "repetition_penalty")}, ()),
        ({"repeat_penalty", "min_p", ("top_k", 0)}, {"top_k": -1, "repetition_penalty": 1.0}, ("min_p",)),
        (set(PLAIN), {}, ("top_k", "min_p", "repetition penalty")),
    ],
)
def test_parameters_are_left_out_one_by_one(
    fake: Fake, client: Client, refuses: set[Any], taken: dict[str, Any], defaults: tuple[str, ...]
) -> None:
    fake.refuses = refuses
    found = find_abilities(client)
    assert (found.plain, found.defaults) == (taken, defaults)
    assert any("its own defaults apply" in note for note in notes_of(found)) == bool(defaults)


@pytest.mark.parametrize("failure", [(429, {}), (503, {}), (502, {}), "hang"])
def test_a_passing_fault_is_no_inability(
    fake: Fake, client: Client, monkeypatch: pytest.MonkeyPatch, failure: Any
) -> None:
    fake.ranks = True
    client._timeout = 0.5
    client._http.timeout = 0.5
    # Three times in a row, at each of the requests that find abilities out.
    fake.fail = lambda number: failure if number % 4 else None
    found = find_abilities(client)
    assert (found.echo, found.ranks, found.plain) == (True, True, PLAIN)


def test_a_server_that_fails_at_what_it_cannot_do_is_not_asked_for_long(fake: Fake, client: Client) -> None:
    """llama-cpp-python answers with status 500 where it keeps no logits, and says why."""
    answer = fake.answer

    def without_logits(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "logprobs" in body or "prompt_logprobs" in body:
            return 500, {"error": "logprobs is not supported for models created with logits_all=False"}
        return answer(body)

    fake.answer = without_logits  # type: ignore[method-assign]
    found = find_abilities(client)
    assert not found.echo
    assert "logits_all=False" in found.why_not
    assert sum("logprobs" in body or "prompt_logprobs" in body for body in fake.requests) == 4


def test_log_probabilities_of_other_tokens_are_refused(fake: Fake, client: Client) -> None:
    fake.shifted = True
    found = find_abilities(client)
    assert not found.echo
    assert "not those of the same tokens" in found.why_not


def test_a_chat_template_around_prompts_is_seen(fake: Fake, client: Client) -> None:
    fake.template = "<user>{}</user>"
    with pytest.raises(
        ModelError, match="tokens out of a one-letter prompt: it puts prompts into a chat template"
    ):
        find_abilities(client)


def test_ollama_is_asked_in_its_own_way(fake: Fake, client: Client) -> None:
    fake.ollama, fake.template = True, "<user>{}</user>"
    found = find_abilities(client)
    assert (found.echo, found.why_not) == (False, "Ollama has none")
    fake.requests.clear()
    (text, plain) = ("Who founded it?", {"temperature": 0.0, "max_tokens": 5})
    said = client.complete(text, **plain, **found.plain)
    assert fake.requests == [
        {
            "model": "tiny", "prompt": text, "raw": True, "stream": False,
            "options": {"num_ctx": 4096, "temperature": 0.0, "num_predict": 5, **PLAIN},
        }
    ]  # fmt: skip
    fake.ollama, fake.template = False, "{}"
    with Client(client.url, "tiny") as other:
        assert other.complete(text, **plain)["text"] == said["text"]


def test_a_model_is_known_again(fake: Fake, client: Client, make_model: Callable[..., Any]) -> None:
    found = find_abilities(client)
    check_same(known_by(found, {}), find_abilities(client), {}, arm="served")
    # Rounding may change a text.
    check_same(known_by(found, {}), found._replace(greedy=("other", *found.greedy[1:])), {}, arm="served")
    fake.model = make_model(3)
    with pytest.raises(ModelError, match="served now continues fixed prompts differently"):
        check_same(known_by(found, {}), find_abilities(client), {}, arm="served")
    with pytest.raises(ModelError, match="reports different log-probabilities"):
        check_same(known_by(found, {}), Abilities({}, True, True, greedy=found.greedy), {}, arm="served")


def test_limits_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMIA_ENDPOINT_CONCURRENCY", "3")
    with client_from_environment("http://127.0.0.1:9/v1", "tiny") as client:
        assert client.concurrency == 3
