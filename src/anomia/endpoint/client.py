"""Send requests to a completions server, with retries and a rate limit, and without leaking keys.

Limits are not part of a study and come from the environment, like keys (`keys`):

    ANOMIA_ENDPOINT_CONCURRENCY                 concurrent requests (default 8)
    ANOMIA_ENDPOINT_RATE                        requests per second (default: no limit)
    ANOMIA_ENDPOINT_TIMEOUT                     seconds per answer (default 120)
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from types import TracebackType
from typing import Any, Self

from anomia.endpoint.dialects import OPENAI, Dialect
from anomia.endpoint.keys import key_for
from anomia.errors import MissingExtraError, ModelError

ATTEMPTS = 6
LONGEST_WAIT = 30.0
LARGEST_ANSWER = 256 * 2**20
"""In bytes. The log probabilities of a long prompt take a few hundred thousand."""
# Statuses of an overloaded or starting server. All of 5xx count too, except 501 (not implemented).
_PASSING = frozenset({408, 409, 425, 429})
# Servers use this status both for their own faults and for requests that they can't serve.
_UNCLEAR = 500


class RequestRefusedError(ModelError):
    """The server refuses this request, but may answer others."""


class StoppedError(ModelError):
    """The client was stopped while a request was waiting."""


class Client:
    """A client for one model on a server. It is thread-safe.

    Args:
        url: of the API, such as `http://localhost:8000/v1`.
        model: the model's name on the server.
        key: the server's API key, or None.
        concurrency, rate, timeout: see the module's docstring; a rate of None means no limit.
        transport: for tests.

    Attributes:
        dialect: the form of requests and answers.
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
        self.dialect: Dialect = OPENAI
        self._key, self._timeout = key, timeout
        self._pause = None if rate is None else 1 / rate
        self._next, self._lock, self._stopped = 0.0, threading.Lock(), threading.Event()
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
        self.stop()
        self._http.close()

    def stop(self) -> None:
        """Start no further requests, and wake the ones that wait for their turn or for another attempt."""
        self._stopped.set()

    def complete(
        self, prompt: str, *, attempts: int = ATTEMPTS, unclear_attempts: int = ATTEMPTS, **parameters: Any
    ) -> dict[str, Any]:
        """Complete a prompt; return `text`, `usage` and the other fields of the answer.

        Args:
            prompt: as text.
            attempts: most attempts of a request that fails in a way that may pass.
            unclear_attempts: most attempts for status 500, which some servers return for requests that they can't
                serve.
            parameters: by OpenAI's names.

        Raises:
            RequestRefusedError: the server refuses this request.
            StoppedError: `stop` was called.
            ModelError: the server can't be reached, refuses the key, has no such model, or its answer is not an
                OpenAI completion.
        """
        import tenacity

        def enough(state: Any) -> bool:
            error = state.outcome.exception()
            unclear = isinstance(error, _AgainError) and error.status == _UNCLEAR
            return bool(state.attempt_number >= (min(attempts, unclear_attempts) if unclear else attempts))

        retrying = tenacity.Retrying(
            stop=enough,
            wait=_wait,
            sleep=tenacity.sleep_using_event(self._stopped),
            retry=tenacity.retry_if_exception_type(_AgainError),
            reraise=True,
        )
        try:
            return dict(retrying(self._once, self.dialect.body(self.model, prompt, parameters)))
        except _AgainError as error:
            kind = RequestRefusedError if error.status == _UNCLEAR else ModelError
            times = retrying.statistics["attempt_number"]
            raise kind(f"endpoint: {self.url} fails, after {times} attempts: {error}") from None

    def _once(self, body: dict[str, Any]) -> dict[str, Any]:
        self._take_turn()
        if self._stopped.is_set():
            raise StoppedError(f"endpoint: {self.url} is no longer asked")
        status, headers, content = self._post(body)
        if status in _PASSING or (status >= 500 and status != 501):
            again = f"status {status}: {self._said(content)}".rstrip(": ")
            raise _AgainError(again, status=status, after=_seconds(headers.get("retry-after")))
        if status in (401, 403):
            raise ModelError(
                f"endpoint: {self.url} refuses the key (status {status}); set ANOMIA_ENDPOINT_KEY"
            )
        if status == 404:
            raise ModelError(
                f"endpoint: {self.url} has no model {self.model!r}, or no /completions: API URLs usually "
                "end in /v1"
            )
        if status != 200:
            raise RequestRefusedError(
                f"endpoint: {self.url} answers with status {status}: {self._said(content)}"
            )
        try:
            return self.dialect.read(json.loads(content))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise ModelError(
                f"endpoint: {self.url} answers with something other than an OpenAI completion: "
                f"{self._said(content)}"
            ) from None

    def _post(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        """Post a request; return status, headers and content of an answer that is complete and in time."""
        http = _http()
        deadline = time.monotonic() + self._timeout
        content = bytearray()
        try:
            with self._http.stream("POST", self.dialect.address(self.url), json=body) as response:
                for part in response.iter_bytes():
                    content += part
                    if time.monotonic() > deadline:
                        raise _AgainError(f"no complete answer within {self._timeout:g} seconds")
                    if len(content) > LARGEST_ANSWER:
                        raise ModelError(f"endpoint: {self.url} gives an answer that doesn't end")
                return response.status_code, response.headers, bytes(content)
        except http.LocalProtocolError:
            # The message may contain the headers, and so the key.
            raise ModelError(f"endpoint: {self.url} can't be sent this key or this request") from None
        except http.HTTPError as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
            raise _AgainError(self._hidden(reason)) from None
        except UnicodeError:
            raise RequestRefusedError(
                "endpoint: a prompt holds half characters (lone surrogates), which can't be sent"
            ) from None

    def _take_turn(self) -> None:
        if self._pause is None:
            return
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._pause
        self._stopped.wait(max(0.0, mine - now))

    def _said(self, content: bytes) -> str:
        """The start of a response, on one line and without the key."""
        text = self._hidden(" ".join(content[:4096].decode(errors="replace").split()))
        return text[:200] + ("…" if len(text) > 200 else "")

    def _hidden(self, text: str) -> str:
        """The text with the key removed, because servers and libraries repeat headers in their messages."""
        return text.replace(self._key, "…") if self._key else text


def client_from_environment(url: str, model: str) -> Client:
    """Make a client with the key and limits from the environment.

    Raises:
        ModelError: a limit is not a positive number, or a key is invalid.
        MissingExtraError: the `endpoint` extra is not installed.
    """
    _http()
    return Client(
        url,
        model,
        key=key_for(url),
        concurrency=max(1, int(_number("ANOMIA_ENDPOINT_CONCURRENCY") or 8)),
        rate=_number("ANOMIA_ENDPOINT_RATE"),
        timeout=_number("ANOMIA_ENDPOINT_TIMEOUT") or 120.0,
    )


class _AgainError(Exception):
    """An attempt failed in a way that may pass. after: seconds to wait, as the server asks."""

    def __init__(self, reason: str, *, status: int | None = None, after: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.after = after


def _wait(state: Any) -> float:
    """Seconds to wait: 0.5, doubled each time, plus jitter; longer if the server asks, up to `LONGEST_WAIT`."""
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
