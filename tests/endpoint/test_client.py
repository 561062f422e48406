"""Requests to a server: retries, limits, keys, and one message for each fault."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import tenacity

from anomia.compress.spec import parse_arm
from anomia.endpoint.abilities import Abilities, UntoldError, score
from anomia.endpoint.client import (
    ATTEMPTS,
    Client,
    RequestRefusedError,
    StoppedError,
    client_from_environment,
)
from anomia.endpoint.keys import key_for
from anomia.errors import ModelError, StudyError
from tests.endpoint.fake_server import Fake


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(tenacity, "sleep_using_event", lambda event: waited.append)
    return waited


def ask(client: Client) -> str:
    return str(client.complete("Who?", max_tokens=3, temperature=0.0)["text"])


def test_passing_failures_are_asked_again(fake: Fake, url: str, no_waiting: list[float]) -> None:
    failures = {1: (429, {"retry-after": "7"}), 2: (500, {}), 3: (503, {"retry-after": "Mon, 01 Jan 2026"})}
    fake.fail = failures.get
    with Client(url, "tiny") as client:
        assert ask(client) == fake.tokenizer.decode(
            fake.model.generate(
                fake.tokenizer("Who?", return_tensors="pt").input_ids,
                max_new_tokens=3,
                do_sample=False,
                pad_token_id=1,
            )[0, len(fake.tokenizer("Who?").input_ids) :],
            skip_special_tokens=True,
        )
    assert len(fake.requests) == 4
    assert no_waiting[0] == 7.0
    assert all(wait < 3 for wait in no_waiting[1:])


def test_timeouts_are_asked_again_and_an_end_is_put_to_it(
    fake: Fake, url: str, no_waiting: list[float]
) -> None:
    fake.fail = lambda number: "hang" if number == 1 else None
    with Client(url, "tiny", timeout=0.3) as client:
        ask(client)
    assert len(fake.requests) == 2
    fake.fail = lambda number: (500, {})
    with (
        Client(url, "tiny") as client,
        pytest.raises(ModelError, match=f"after {ATTEMPTS} attempts: status 500"),
    ):
        ask(client)
    assert len(fake.requests) == 2 + ATTEMPTS


@pytest.mark.parametrize(
    ("failure", "says", "requests"),
    [
        ((501, {}), "status 501", 1),
        ({"choices": []}, "something other than an OpenAI completion", 1),
        ({"choices": [{"text": None}]}, "something other than an OpenAI completion", 1),
        ({"choices": [{"text": "a"}], "usage": 7}, "something other than an OpenAI completion", 1),
        ([1], "something other than an OpenAI completion", 1),
        ((401, {}), "ANOMIA_ENDPOINT_KEY", 1),
        ((404, {}), "has no model 'tiny'", 1),
        ((400, {}), "status 400: busy", 1),
        ((302, {"location": "http://elsewhere"}), "status 302", 1),
        ("garbage", "something other than an OpenAI completion", 1),
    ],
)
def test_faults_that_stay_are_one_message(
    fake: Fake, url: str, failure: Any, says: str, requests: int
) -> None:
    fake.fail = lambda number: failure
    with Client(url, "tiny", key="sk-secret") as client, pytest.raises(ModelError, match=says) as caught:
        ask(client)
    assert len(fake.requests) == requests
    assert "\n" not in str(caught.value)
    assert "sk-secret" not in str(caught.value) + repr(client)
    assert isinstance(caught.value, RequestRefusedError) == ("status" in says)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        (["a"], {"completion_tokens": 1}),
        ({"tokens": 3, "token_logprobs": 4}, {"completion_tokens": 1}),
        ({"tokens": ["a", "b"], "token_logprobs": [None, "x"]}, {"completion_tokens": None}),
        ({"tokens": [], "token_logprobs": []}, {"completion_tokens": "1"}),
    ],
)
def test_log_probabilities_of_another_shape_are_none(fake: Fake, url: str, told: Any, usage: Any) -> None:
    fake.fail = lambda number: {"choices": [{"text": "!", "logprobs": told}], "usage": usage}
    with Client(url, "tiny") as client, pytest.raises(UntoldError, match="returns no log-probabilities"):
        score(client, "a", Abilities({}, echo=True, ranks=False))
    fake.fail = lambda number: {"choices": [{"text": "!", "prompt_logprobs": told}], "usage": usage}
    with Client(url, "tiny") as client, pytest.raises(UntoldError, match="returns no ranks"):
        score(client, "a", Abilities({}, echo=True, ranks=True))


def test_an_answer_that_never_ends_is_given_up(fake: Fake, url: str, no_waiting: list[float]) -> None:
    """Gateways send blanks to keep a connection open: each resets a timeout that counts from byte to byte."""
    fake.fail = lambda number: "trickle"
    began = time.monotonic()
    with (
        Client(url, "tiny", timeout=0.3) as client,
        pytest.raises(ModelError, match=r"no complete answer within 0\.3"),
    ):
        client.complete("Who?", attempts=2)
    assert time.monotonic() - began < 3


def test_answers_and_prompts_that_are_no_text(fake: Fake, url: str, no_waiting: list[float]) -> None:
    fake.fail = lambda number: (200, {"content-encoding": "gzip"}, b"no gzip")
    with Client(url, "tiny") as client:
        with pytest.raises(ModelError, match="DecodingError"):
            ask(client)
        with pytest.raises(RequestRefusedError, match="lone surrogates"):
            client.complete("half \ud800")


def test_a_stopped_client_asks_nothing_more(fake: Fake, url: str) -> None:
    fake.fail = lambda number: (503, {"retry-after": "20"})
    with Client(url, "tiny") as client:
        threading.Timer(0.2, client.stop).start()
        began = time.monotonic()
        with pytest.raises(StoppedError):
            ask(client)
        assert time.monotonic() - began < 5
    assert len(fake.requests) == 1


def test_a_server_that_is_not_there(no_waiting: list[float]) -> None:
    with Client("http://127.0.0.1:9/v1", "tiny") as client, pytest.raises(ModelError, match="ConnectError"):
        ask(client)
    assert len(no_waiting) == ATTEMPTS - 1


def test_the_key_comes_from_the_environment_alone(
    fake: Fake, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANOMIA_ENDPOINT_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
    with client_from_environment(url, "tiny") as client:
        ask(client)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with client_from_environment(url, "tiny") as client:
        ask(client)
    monkeypatch.setenv("ANOMIA_ENDPOINT_KEY", "sk-own")
    with client_from_environment(url, "tiny") as client:
        ask(client)
    monkeypatch.delenv("ANOMIA_ENDPOINT_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    with client_from_environment(url, "tiny") as client:
        ask(client)
    # A server that a study file names gets no key that was not meant for it.
    assert fake.keys == [None, "Bearer sk-general", "Bearer sk-own", None]


def test_a_key_goes_to_its_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("ANOMIA_ENDPOINT_KEY", "sk-own")
    monkeypatch.setenv("ANOMIA_ENDPOINT_HOST", "models.example.org")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-general")
    assert key_for("https://models.example.org/v1") == "sk-own"
    assert key_for("https://elsewhere.example.org/v1") is None
    assert key_for("https://api.openai.com/v1") == "sk-general"
    assert key_for("http://api.openai.com/v1") is None
    assert key_for("https://api.openai.com.example.org/v1") is None


def test_no_faster_than_allowed(fake: Fake, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMIA_ENDPOINT_RATE", "20")
    with client_from_environment(url, "tiny") as client:
        for _ in range(5):
            ask(client)
    assert fake.times[-1] - fake.times[0] >= 4 / 20 - 0.02
    monkeypatch.setenv("ANOMIA_ENDPOINT_RATE", "fast")
    with pytest.raises(ModelError, match="ANOMIA_ENDPOINT_RATE is 'fast'"):
        client_from_environment(url, "tiny")


@pytest.mark.parametrize(
    "text",
    [
        "endpoint:",
        "endpoint:http://localhost/v1",
        "endpoint:ftp://localhost/v1#m",
        "endpoint:http://[/v1#m",
        "endpoint:http://localhost:abc/v1#m",
        "endpoint:http://localhost:99999/v1#m",
        "endpoint:http://local\nhost/v1#m",
        "endpoint:http://localhost/v1# ",
        "wanda:0.5+endpoint:http://localhost/v1#m",
    ],
)
def test_specifications_that_are_none(text: str) -> None:
    with pytest.raises(StudyError):
        parse_arm(text)


def test_specifications() -> None:
    arm = parse_arm("endpoint:https://host:8000/v1/#org/model-7b")
    assert arm.name == "endpoint:https://host:8000/v1#org/model-7b"
    assert parse_arm(arm.name) == arm
    for secret in (
        "endpoint:http://user:hunter2@host/v1#m",
        "endpoint:http://user:hunter2@host/v1",
        "endpoint:ftp://user:hunter2@host/v1#m",
        "endpoint:http://host/v1?key=hunter2#m",
        "wanda:0.5+endpoint:http://user:hunter2@host/v1#m",
    ):
        with pytest.raises(StudyError) as caught:
            parse_arm(secret)
        assert "hunter2" not in str(caught.value)
