"""A real browser for the tests of the page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip
Open = Callable[..., Any]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium as the system has it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (make browser installs Debian's)")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()


class Heard(list[str]):
    """What a page said that it shouldn't: errors, warnings, dialogs, requests over a network."""


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens a page, by its file or address, and waits until items are there; `heard` has its complaints."""
    with contextlib.ExitStack() as stack:

        def opened(where: Path | str, *, width: int = 1400, scheme: str = "light", figures: bool = False, **more: Any) -> Any:  # fmt: skip
            context = browser.new_context(
                viewport={"width": width, "height": 1000}, color_scheme=scheme, **more
            )
            stack.callback(context.close)
            page, heard = context.new_page(), Heard()
            page.on("console", lambda said: heard.append(f"console {said.type}: {said.text}"))
            page.on("pageerror", lambda error: heard.append(f"error: {error}"))
            page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
            address = where if isinstance(where, str) else where.resolve().as_uri()
            own = address.split("/?")[0]
            page.on(
                "request",
                lambda asked: asked.url.startswith((own, "data:", "blob:")) or heard.append(f"request: {asked.url}"),
            )  # fmt: skip
            page.heard = heard
            page.goto(address)
            page.wait_for_selector("html[data-explorer=ready]")
            if figures:
                page.wait_for_selector("html[data-figures=drawn]", timeout=120_000)
            return page

        yield opened
