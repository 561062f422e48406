"""The marking of answers in the page finds what the grading found."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest

from anomia.grade import contains

CASES = [
    ("It was founded in 1928, they say.", "1928"),
    ("The answer is: New   York\nCity!", "new york city"),
    ("Straße", "STRASSE"),
    ("ΟΔΟΣ και οδός", "οδος"),
    ("ＡＢＣ１２３", "abc123"),
    ("ﬁnal ﬂight", "final flight"),
    ("कि‍ताब और पुस्तक", "पुस्तक"),
    ("ঢাকা বাংলাদেশের রাজধানী।", "বাংলাদেশের রাজধানী"),
    ("กรุงเทพมหานคร เป็นเมืองหลวง", "เมืองหลวง"),
    ("القاهرة، عاصمة مصر.", "عاصمة مصر"),
    ("서울은 대한민국의 수도", "대한민국"),
    ("e\u0301cole", "école"),
    ("U.S.A. today", "usa"),
    ("nothing here", "gold"),
    ("", "gold"),
    ("gold", "…"),
    ("İstanbul", "istanbul"),
    ("𝔊𝔬𝔩𝔡 in gothic", "gold"),
    ("the టంగ్\u200cస్టన్", "టంగ్స్టన్"),
    ("టంగ్స్టన్", "టంగ్\u200cస్టన్\u200b"),
    ("an e\u200b\u0301co\u00adle", "école"),
    ("അവന്\u200d said", "അവൻ"),
    ("അവന്\u200d said", "അവന്"),
    ("दर्\u200dया", "दऱ्या"),
    ("\u06dd 12", "\u06dd"),
    ("12", "\u200b"),
]


@pytest.fixture(scope="module")
def find(browser: Any) -> Any:
    code = resources.files("anomia.report.page").joinpath("assets/js/match.js").read_text(encoding="utf-8")
    page = browser.new_page()
    yield lambda text, answers: page.evaluate(
        f"([text, answers]) => {{ {code}\nreturn findSpans(text, answers).map(([a, b]) => text.slice(a, b)); }}",
        [text, answers],
    )
    page.close()


@pytest.mark.parametrize(("text", "answer"), CASES)
def test_marked_where_contained(find: Any, text: str, answer: str) -> None:
    marked = find(text, [answer])
    assert bool(marked) == contains(text, answer)
    assert all(contains(part, answer) for part in marked)


def test_every_place_and_no_place_twice(find: Any) -> None:
    assert find("Rome, rome; ROME!", ["rome"]) == ["Rome", "rome", "ROME"]
    assert find("New York City", ["York", "New York"]) == ["New York"]
