"""The prompts, word for word."""

from __future__ import annotations

from anomia.items.item import Question
from anomia.items.prompts import (
    one_shot_prompt,
    write_prompt,
)


def test_the_open_form_is_the_papers() -> None:
    assert write_prompt("open", "P.", "Q?") == "Context: P.\n\nQuestion: Q?\n\nAnswer in a few words:"
    assert write_prompt("open", "", "Q?") == "Question: Q?\n\nAnswer in a few words:"


def test_the_cued_form_differs_by_its_options_alone() -> None:
    cued = write_prompt("cued", "P.", "Q?", ["a", "b"])
    assert cued.replace("Options:\n- a\n- b\n\n", "") == write_prompt("open", "P.", "Q?")


def test_without_the_question() -> None:
    assert write_prompt("no_question", "P.") == "Context: P.\n\nAnswer in a few words:"


def test_one_shot_is_the_papers_form() -> None:
    exemplar = Question("x", "english", "E" * 400, "EQ?", ("EA", "other"))
    assert one_shot_prompt(exemplar, "P.", "Q?") == (
        f"Context: {'E' * 300}\nQuestion: EQ?\nAnswer in a few words: EA\n\n"
        "Context: P.\nQuestion: Q?\nAnswer in a few words:"
    )
    assert one_shot_prompt(exemplar, "P.", "Q?").endswith(write_prompt("zero_shot", "P.", "Q?"))
