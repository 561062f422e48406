"""Take the pictures for the README and the docs: the top of the example report, light and dark.

    .venv/bin/python scripts/pictures.py

This needs Chromium (`make browser`). Run it after regenerating `docs/example`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "example" / "index.html"
FOLDER = ROOT / "docs" / "images"
WIDTH = 1200
MARGIN = 28
GAP = 12  # leaves out the line above the verdict and the content below its text


def take(browser_path: str, page: Path = PAGE, folder: Path = FOLDER) -> list[Path]:
    """Save `report-light.png` and `report-dark.png`, cropped to the first verdict and its bars."""
    made = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            tab = browser.new_page(
                viewport={"width": WIDTH, "height": 1000}, color_scheme=scheme, device_scale_factor=1.5
            )
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-explorer=ready]")
            first = tab.locator(".verdict").first.bounding_box()
            text = tab.locator(".verdict .rest").first.bounding_box()
            bars = tab.locator(".verdict .noise").first.bounding_box()
            assert first is not None
            assert text is not None
            assert bars is not None
            bottom = max(box["y"] + box["height"] for box in (text, bars))
            made.append(folder / f"report-{scheme}.png")
            tab.screenshot(
                path=made[-1],
                clip={
                    "x": first["x"] - MARGIN,
                    "y": first["y"] + GAP,
                    "width": first["width"] + 2 * MARGIN,
                    "height": bottom - first["y"],
                },
            )
            tab.close()
        browser.close()
    return made


if __name__ == "__main__":
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        sys.exit("there is no Chromium here: make browser")
    for file in take(found):
        print(file.relative_to(ROOT))
