"""Requests to a completions server: retried where that can help, no faster than allowed, keys kept to themselves.

How fast, and with what key, is not part of a study and comes from the environment:

    ANOMIA_ENDPOINT_KEY                         sent to the server, never stored, logged or shown
    OPENAI_API_KEY                              in its place, but only to OpenAI, or to OPENAI_BASE_URL's host
    ANOMIA_ENDPOINT_CONCURRENCY                 requests at a time (default 8)
    ANOMIA_ENDPOINT_RATE                        requests a second (default: as many as come)
    ANOMIA_ENDPOINT_TIMEOUT                     seconds for one answer (default 120)
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from anomia.errors import MissingExtraError, ModelError

ATTEMPTS = 6
LONGEST_WAIT = 30.0
# A server that is overloaded or starting says these; anything else will be said again.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class RefusedError(ModelError):
    """The server understood a request and won't answer it: another one may be answered."""


class Client:
    """A model of one server. Can be used from several threads at once.

    Args:
        url: of the API, as in `http://localhost:8000/v1`.
        model: its name there.
        key: of the server, None where it needs none.
        concurrency, rate, timeout: as at the head of this module; rate None: no limit.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        concurrency: int = 8,
        rate: float | None = None,
        timeout: float = 120.0,
        transport: Any = None,
    ) -> None:
        http = _http()
        self.url, self.model, self.concurrency = url, model, concurrency
        self._pause = None if rate is None else 1 / rate
        self._next, self._lock = 0.0, threading.Lock()
        self._http = http.Client(
            timeout=http.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            limits=http.Limits(max_connections=concurrency),
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"Client({self.url!r}, {self.model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def complete(self, prompt: str, *, attempts: int = ATTEMPTS, **parameters: Any) -> dict[str, Any]:
        """The first choice that the server gives for a prompt, and its `usage`.

        attempts: how often a request is sent that fails in a way that may pass.

        Raises:
            RefusedError: it won't answer this request.
            ModelError: it can't be reached, wants another key, or has no such model; or its answer is none.
        """
        import tenacity

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_AgainError),
            reraise=True,
        )
        body = {"model": self.model, "prompt": prompt, **parameters}
        try:
            answer: dict[str, Any] = retrying(self._once, body)
        except _AgainError as error:
            raise ModelError(f"endpoint: {self.url} fails, after {attempts} attempts: {error}") from None
        return answer

    def _once(self, body: Mapping[str, Any]) -> dict[str, Any]:
        http = _http()
        self._take_turn()
        try:
            response = self._http.post(f"{self.url}/completions", json=body)
        except http.TransportError as error:
            raise _AgainError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        if response.status_code in _PASSING:
            raise _AgainError(
                f"status {response.status_code}", after=_seconds(response.headers.get("retry-after"))
            )
        if response.status_code in (401, 403):
            raise ModelError(
                f"endpoint: {self.url} refuses the key (status {response.status_code}); set ANOMIA_ENDPOINT_KEY"
            )
        if response.status_code == 404:
            raise ModelError(
                f"endpoint: {self.url} has no model {self.model!r}, or no /completions: the URL of an API ends in "
                "/v1 most often"
            )
        if response.status_code != 200:
            raise RefusedError(
                f"endpoint: {self.url} answers with status {response.status_code}: {_said(response)}"
            )
        try:
            values = response.json()
            choice = dict(values["choices"][0])
            if not isinstance(choice["text"], str):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError):
            raise ModelError(
                f"endpoint: {self.url} answers with something else than an OpenAI completion: {_said(response)}"
            ) from None
        return {**choice, "usage": values.get("usage") or {}}

    def _take_turn(self) -> None:
        if self._pause is None:
            return
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._pause
        time.sleep(max(0.0, mine - now))


def client_from_environment(url: str, model: str) -> Client:
    """A client with the key and the limits that the environment gives.

    Raises:
        ModelError: a limit is no positive number.
        MissingExtraError: the `endpoint` extra is not installed.
    """
    _http()
    return Client(
        url,
        model,
        key=os.environ.get("ANOMIA_ENDPOINT_KEY") or _openai_key(url),
        concurrency=max(1, int(_number("ANOMIA_ENDPOINT_CONCURRENCY") or 8)),
        rate=_number("ANOMIA_ENDPOINT_RATE"),
        timeout=_number("ANOMIA_ENDPOINT_TIMEOUT") or 120.0,
    )


def _openai_key(url: str) -> str | None:
    """OpenAI's key, where it belongs: a study file of somebody else may name any server."""
    homes = {"api.openai.com", urlsplit(os.environ.get("OPENAI_BASE_URL", "")).hostname}
    return os.environ.get("OPENAI_API_KEY") if urlsplit(url).hostname in homes - {None} else None


class _AgainError(Exception):
    """An attempt failed in a way that may pass. after: seconds that the server asks to wait."""

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def _wait(state: Any) -> float:
    """Half a second, doubled each time, with jitter; longer where the server says so."""
    import tenacity

    error = state.outcome.exception()
    asked = error.after if isinstance(error, _AgainError) and error.after is not None else 0.0
    usual = tenacity.wait_exponential(multiplier=0.5, max=LONGEST_WAIT)(state) + random.uniform(0, 0.5)
    return min(LONGEST_WAIT, max(asked, usual))


def _seconds(header: str | None) -> float | None:
    try:
        return None if header is None else max(0.0, float(header))
    except ValueError:  # a date
        return None


def _said(response: Any) -> str:
    """The beginning of a response, on one line."""
    text = " ".join(response.text.split())
    return text[:200] + ("…" if len(text) > 200 else "")


def _number(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ModelError(f"endpoint: {name} is {text!r}; it must be a positive number")
    return value


def _http() -> Any:
    try:
        import httpx2
        import tenacity  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "httpx2", "endpoint") from None
    return httpx2
