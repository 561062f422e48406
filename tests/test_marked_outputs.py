"""Both graders against a reader's marks, and the documentation against both.

`data/marked_outputs.jsonl`: open outputs of a real run (Gemma 3 270M, the shipped CC0 questions, nine languages) that a
reader marked before any of them was graded strictly. The marks are no goal: they may be corrected where they are wrong,
and never adjusted to a grader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from anomia.grade import containment
from anomia.strict import strict

HERE = Path(__file__).parent
GRADERS = {"containment": containment, "strict": strict}


class Agreement(NamedTuple):
    outputs: int
    agree: int
    wrongly_right: int
    wrongly_wrong: int


def marks() -> list[dict[str, Any]]:
    lines = (HERE / "data" / "marked_outputs.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def agreement(grader: Callable[[str, Sequence[str]], bool], marked: Sequence[dict[str, Any]]) -> Agreement:
    pairs = [(grader(each["output"], each["answers"]), each["right"]) for each in marked]
    return Agreement(
        len(pairs),
        sum(said == right for said, right in pairs),
        sum(said and not right for said, right in pairs),
        sum(right and not said for said, right in pairs),
    )


def parts() -> dict[str, list[dict[str, Any]]]:
    every = marks()
    return {
        "all": every,
        "clear cases": [each for each in every if not each["borderline"]],
        "greedy answers": [each for each in every if each["id"].endswith("/open")],
    }


def test_the_marks_cover_all_languages_and_both_arms() -> None:
    every = marks()
    assert len({each["id"] for each in every}) == len(every) >= 260
    assert len({each["language"] for each in every}) == 9
    for arm, languages in (("base", 9), ("wanda:0.5", 5)):
        assert len({each["language"] for each in every if f"/{arm}/" in each["id"]}) == languages
    assert min(sum(each["right"] is right for each in every) for right in (True, False)) >= 80


@pytest.mark.parametrize("grader", GRADERS)
def test_the_documentation_says_how_often_a_grader_agrees_with_the_reader(grader: str) -> None:
    page = (HERE.parent / "docs" / "grading.md").read_text(encoding="utf-8")
    for part, marked in parts().items():
        found = agreement(GRADERS[grader], marked)
        share = f"{100 * found.agree / found.outputs:.1f} %"
        row = f"| {part} | {found.outputs} | `{grader}` | {found.agree} ({share}) | {found.wrongly_right} | {found.wrongly_wrong} |"
        assert row in page, row


def test_the_strict_grader_agrees_more_often() -> None:
    for marked in parts().values():
        assert agreement(strict, marked).agree > agreement(containment, marked).agree
