"""A server that answers with a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity

from anomia.endpoint.client import Client
from tests.endpoint.fake_server import Fake, serving


@pytest.fixture
def fake(make_model: Callable[..., Any], tokenizer: Any) -> Fake:
    return Fake(make_model(), tokenizer)


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    with serving(fake) as address:
        yield address


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(tenacity, "sleep_using_event", lambda event: lambda seconds: None)
    with Client(url, "tiny") as client:
        yield client
