"""The documentation builds without a broken link, loads nothing from elsewhere, and says what the source says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.messages import MARK, messages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a broken link or a page outside the navigation fails here."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
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
    assert page.count("<code>DataError</code>") > 20


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
    assert len(documented()) > 40
    gone = [text for text in documented() if not any(_says(text, message) for message in known)]
    assert gone == []


def _says(documented_text: str, message: str) -> bool:
    """Whether the words of a documented message stand in a message of the source, in order."""
    pattern = ".*".join(re.escape(part.strip()) for part in documented_text.split("…"))
    return re.search(pattern, message) is not None
