"""Requests to a completions server: retried where that can help, no faster than allowed, keys kept to themselves.

How fast is not part of a study and comes from the environment, as keys do (`keys`):

    ANOMIA_ENDPOINT_CONCURRENCY                 requests at a time (default 8)
    ANOMIA_ENDPOINT_RATE                        requests a second (default: as many as come)
    ANOMIA_ENDPOINT_TIMEOUT                     seconds for one answer (default 120)
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
"""Bytes. The log-probabilities of a long prompt take a few hundred thousand."""
# A server that is overloaded or starting says these; so it does with what begins with 5, but "not implemented".
_PASSING = frozenset({408, 409, 425, 429})
# What a server may say of a fault of its own as well as of a request that it can't serve.
_UNCLEAR = 500


class RequestRefusedError(ModelError):
    """The server won't answer this request: another one may be answered."""


class StoppedError(ModelError):
    """The client was stopped while a request was waiting."""


class Client:
    """A model of one server. Can be used from several threads at once.

    Args:
        url: of the API, as in `http://localhost:8000/v1`.
        model: its name there.
        key: of the server, None where it needs none.
        concurrency, rate, timeout: as at the head of this module; rate None: no limit.
        transport: for tests.

    Attributes:
        dialect: how the server is asked.
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
        """Lets no further request begin, and wakes those that wait for their turn or another attempt."""
        self._stopped.set()

    def complete(
        self, prompt: str, *, attempts: int = ATTEMPTS, unclear_attempts: int = ATTEMPTS, **parameters: Any
    ) -> dict[str, Any]:
        """What the server makes of a prompt: `text`, `usage`, and what else it tells.

        Args:
            prompt: as text.
            attempts: how often a request is sent that fails in a way that may pass.
            unclear_attempts: the same where the server names a fault of its own (status 500), as some do when
                they can't serve a request.
            parameters: by OpenAI's names.

        Raises:
            RequestRefusedError: it won't answer this request.
            StoppedError: `stop` was called.
            ModelError: it can't be reached, wants another key, or has no such model; or its answer is none.
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
        """Status, headers and content of an answer that came whole and in time."""
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
            # Its text may hold the headers, and so the key.
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
        """The beginning of a response, on one line and without the key."""
        text = self._hidden(" ".join(content[:4096].decode(errors="replace").split()))
        return text[:200] + ("…" if len(text) > 200 else "")

    def _hidden(self, text: str) -> str:
        """A text without the key: servers and libraries repeat headers in their messages."""
        return text.replace(self._key, "…") if self._key else text


def client_from_environment(url: str, model: str) -> Client:
    """A client with the key and the limits that the environment gives.

    Raises:
        ModelError: a limit is no positive number, or a key none.
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
    """An attempt failed in a way that may pass. after: seconds that the server asks to wait."""

    def __init__(self, reason: str, *, status: int | None = None, after: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
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
