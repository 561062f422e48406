"""The documentation builds without a broken link, loads nothing from elsewhere, and says what the source says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import architecture_table
from scripts.messages import MARK, messages

from anomia._version import __version__
from anomia.measure.verdict import Thresholds
from anomia.study import Study
from tests.docs.commands import ROOT
from tests.report.conftest import CHROMIUM, QUIET

SERVED = "https://example.org/below/"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link or a page outside the navigation fails here."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "SITE_URL": SERVED},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+|//[^"]+)"|<link[^>]+rel="(?:stylesheet|preload|icon|preconnect)"'
            r'[^>]*href="(https?:[^"]+|//[^"]+)"',
            page.read_text(encoding="utf-8"),
        )
        assert loaded == [], f"{page.name}: {loaded}"


def test_code_is_shown_as_code(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "```" not in page.read_text(encoding="utf-8"), page.name


def test_every_message_is_on_the_page(site: Path) -> None:
    page = (site / "troubleshooting.html").read_text(encoding="utf-8")
    assert MARK not in page
    assert "pickle only" in page
    told = page.partition('id="all-messages"')[2]
    assert told.count("<li>") > 150
    assert "Error" not in re.sub(r"<[^>]+>", "", told.partition("</details>")[0])


def test_readme_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (ROOT / target).exists(), f"{name}: {target}"


def documented() -> list[str]:
    """The messages that `docs/troubleshooting.md` explains: the code in the first cell of a row."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("## No message")[0]
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_every_explained_message_still_exists() -> None:
    known = [" ".join(message.text.split()) for message in messages()]
    known.append("this needs the package …: pip install 'anomia[…]'")
    assert len(documented()) > 20
    gone = [text for text in documented() if not any(_says(text, message) for message in known)]
    assert gone == []


def _says(documented_text: str, message: str) -> bool:
    """Whether the words of a documented message stand in a message of the source, in order."""
    pattern = ".*".join(re.escape(part.strip()) for part in documented_text.split("…"))
    return re.search(pattern, message) is not None


def seen(look: Callable[[Any], Any]) -> Any:
    """What `look` returns of a browser. In a thread, because the tests of the report may have one in this."""

    def open_and_look() -> Any:
        with sync_api.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            return look(browser)

    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (make browser installs Debian's)")
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(open_and_look).result()


@pytest.mark.slow
def test_the_search_works_from_disk(site: Path) -> None:
    asked: list[str] = []

    def look(browser: Any) -> list[str]:
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "start.html").as_uri())
        page.locator(".md-search__input").click()
        page.keyboard.type("calibration")
        page.wait_for_selector(".md-search-result__link", timeout=30_000)
        return [str(link.get_attribute("href")) for link in page.locator(".md-search-result__link").all()]

    hits = seen(look)
    assert any("compression.html" in hit for hit in hits)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


@pytest.mark.slow
def test_no_table_is_cut_off(site: Path) -> None:
    """At the width of a laptop every table of the study fits into its column."""

    def look(browser: Any) -> list[tuple[int, int]]:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((site / "results-small.html").as_uri())
        return [
            (
                int(table.evaluate("table => table.scrollWidth")),
                int(table.evaluate("table => table.clientWidth")),
            )
            for table in page.locator(".md-content table").all()
        ]

    sizes = seen(look)
    assert len(sizes) > 5
    assert [(width, room) for width, room in sizes if width > room] == []


def test_the_page_for_unknown_addresses_works_below_a_path(site: Path) -> None:
    page = (site / "404.html").read_text(encoding="utf-8")
    loaded = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page)
    assert loaded
    assert [link for link in loaded if not link.startswith("/below/")] == []


def table_after(page: str, heading: str) -> dict[str, str]:
    """First and second column of the first table below a heading."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(heading)[2]
    rows = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert rows is not None
    cells = [row.strip("|").split("|") for row in rows[0].splitlines()[2:]]
    return {cell[0].strip(" `"): cell[1].strip(" `") for cell in cells}


def test_every_key_of_a_study_is_documented_with_its_default() -> None:
    told = table_after("own.md", "belong to the command and are not keys")
    assert list(told) == list(Study.model_fields)
    # What a default of None or of all means stands there in words.
    plain = {
        name: str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        for name, field in Study.model_fields.items()
        if isinstance(field.default, bool | int | float | str)
    }
    assert {name: told[name] for name in plain} == plain


def test_every_margin_is_documented_with_its_default() -> None:
    told = table_after("statistics.md", "### Margins")
    assert {name: float(value) for name, value in told.items()} == {
        margin.name: float(margin.default) for margin in fields(Thresholds)
    }


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__
    assert {"cff-version", "message", "title", "abstract", "authors", "license"} <= cited.keys()


def test_every_page_is_in_the_index_under_its_own_title() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = dict(re.findall(r"- ([^:\n]+): (\S+\.md)", nav))
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for title, page in pages.items():
        if page == "index.md":
            continue
        assert f"[{title}]({page})" in index
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        if "--8<--" not in text.partition("\n")[0]:
            assert f"\n# {title}\n" in f"\n{text}", page


def test_the_page_of_architectures_summarizes_its_file() -> None:
    rows = architecture_table.read()
    page = architecture_table.PAGE.read_text(encoding="utf-8")
    assert page == architecture_table.page(rows), "write it anew: scripts/architecture_table.py"
    shown = re.findall(r"^\| ([a-z].*?) \|", page.partition("|---")[2], re.MULTILINE)
    assert sorted(", ".join(shown).split(", ")) == sorted(
        row.architecture for row in rows if not row.not_built
    )
