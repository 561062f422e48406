"""`anomia view`: the page of a run whose items stay in their files, for one reader on this machine."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from anomia.errors import RunError
from anomia.report.figures import draw_all
from anomia.report.page.build import explorer_values, figure_specs, named_runs, page_values
from anomia.report.page.package import page
from anomia.report.server_rows import Rows, plain_json, read_filter

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def served_page(run: Path) -> str:
    """The page of a run without its items, which it requests from the server."""
    runs = named_runs([run])
    drawn = draw_all(runs)
    values = page_values([run], runs, drawn) | {"explorer": explorer_values(runs, served=True)}
    return page(values, specs=figure_specs(drawn), served=True)


def application(html: str, rows: Rows, *, token: str, hosts: Sequence[str]) -> ASGIApp:
    """The app that serves the page and the rows and items of its run; nothing else on the machine can be requested.

    Args:
        html: the page.
        rows: of the run.
        token: the token that the page's address must carry once; from then on a cookie carries it.
        hosts: accepted values of the Host header. Others come from pages that found out this server's address
            (DNS rebinding).
    """

    def answer(find: Callable[[QueryParams], Any]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            try:
                return Response(plain_json(find(request.query_params)), media_type="application/json")
            except (KeyError, ValueError, OverflowError):
                return PlainTextResponse("this can't be asked", 400)

        return endpoint

    asked: dict[str, Callable[[QueryParams], Any]] = {
        "index": lambda _: rows.index(),
        "count": lambda values: rows.count(read_filter(values["filter"])),
        "rows": lambda values: rows.page(
            read_filter(values["filter"]), int(values["offset"]), int(values["limit"])
        ),
        "item": lambda values: rows.item(int(values["number"])),
        "alike": lambda values: rows.alike(int(values["number"])),
        "find": lambda values: rows.find(values["arm"], values["language"], values["id"]),
    }
    routes = [Route("/", lambda _: HTMLResponse(html))]
    routes += [Route(f"/api/{name}", answer(find)) for name, find in asked.items()]
    return _Guard(Starlette(routes=routes), token=token, hosts=hosts)


class _Guard:
    """Middleware that refuses foreign hosts and requests without the token; its headers keep other pages out."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Sequence[str]) -> None:
        self._app, self._token, self._hosts = app, token, frozenset(host.lower() for host in hosts)
        # All ports of a host share its cookies; two views must not overwrite each other's.
        self._cookie = f"anomia_{hosts[0].rpartition(':')[2]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [
                    (name.lower().encode(), value.encode()) for name, value in HEADERS.items()
                ]
            await send(message)

        refused = self._refusal(Request(scope))
        await (refused or self._app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        if Headers(scope=request.scope).get("host", "").lower() not in self._hosts:
            return PlainTextResponse("this server doesn't answer to that name", 421)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only reading is possible", 405)
        given = request.query_params.get("token")
        if given is not None and request.url.path == "/" and self._known(given):
            # Remove the token from the address, so that no history or screenshot keeps it.
            entered = RedirectResponse("/", 303)
            entered.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return entered
        if not self._known(request.cookies.get(self._cookie, "")):
            return PlainTextResponse("open the address that anomia view printed, with its token", 403)
        return None

    def _known(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on one interface.

    Raises:
        RunError: the address can't be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
            # Connections to the printed address wait until the server is up instead of being refused.
            found.listen(64)
            yield found
    except OSError as error:
        raise RunError(
            f"view: {host}:{port} can't be listened on: {error.strerror or error}; give another --port or --host"
        ) from None


def serve(run: Path, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve a run until interrupted. ready: is called with the address, which includes the token.

    Raises:
        RunError: the run can't be read, or the address can't be used.
    """
    run = run.resolve()
    html = served_page(run)
    with listening(host, port) as listener, TemporaryDirectory(prefix="anomia-view-") as scratch:
        rows = Rows(run, Path(scratch))
        found = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        token = secrets.token_urlsafe(24)
        names = dict.fromkeys((shown, *(LOOPBACK if shown in LOOPBACK else ())))
        app = application(html, rows, token=token, hosts=[f"{name}:{found}" for name in names])
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        )
        ready(f"http://{shown}:{found}/?token={token}")
        try:
            server.run(sockets=[listener])
        finally:
            rows.close()
