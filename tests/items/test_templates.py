"""A study's own prompts, stop strings and graders: named fields only, and never code."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import StudyError
from anomia.grade import ENTRY_POINTS, Grading, grader_named
from anomia.items.item import Question
from anomia.items.prompts import (
    Templates,
    fill,
    one_shot_prompt,
    read_templates,
    write_prompt,
)
from anomia.study import Study, read_study


def test_templates_take_the_place_of_the_built_in_forms() -> None:
    words = read_templates(
        {
            "open": "{context}\nQ: {question}\nA:",
            "cued": "{question}\n{options}\nA:",
            "no_question": "{context}\nA:",
            "zero_shot": "Q: {question} A:",
        }
    )
    assert write_prompt("open", "P.", "Who?", templates=words) == "P.\nQ: Who?\nA:"
    assert write_prompt("cued", "P.", "Who?", ["a", "b"], templates=words) == "Who?\n- a\n- b\nA:"
    assert write_prompt("no_question", "P.", templates=words) == "P.\nA:"
    exemplar = Question("x", "english", "", "When?", ("Now",))
    assert one_shot_prompt(exemplar, "P.", "Who?", templates=words) == "Q: When? A: Now\n\nQ: Who? A:"


@given(st.text(), st.text())
def test_what_is_filled_in_is_never_filled_again(context: str, question: str) -> None:
    filled = fill(
        "<{context}|{question}>", {"context": context + "{question}", "question": question + "{context}"}
    )
    assert filled == f"<{context}{{question}}|{question}{{context}}>"


def test_nothing_of_format_strings_is_understood() -> None:
    """str.format would reach into objects, and fail at braces that mean nothing."""
    text = "{question.__class__} {0} {} {question!r} { {{question}} }"
    with pytest.raises(StudyError, match=r"no field \{0\}"):
        read_templates({"open": text + "{question}"})
    assert fill("{question.__class__} {} { {{question}} }", {}) == "{question.__class__} {} { {question} }"


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"opne": "{question}"}, "did you mean 'open'"),
        ({"open": "{context}{qestion}{question}"}, "{qestion}; known: {context}, {question}"),
        ({"open": "{context}"}, "lacks {question}"),
        ({"cued": "{question}"}, "lacks {options}"),
        ({"open": "{question} {options}"}, "no field {options}"),
    ],
)
def test_faults_of_a_study_file(tmp_path: Path, prompts: dict[str, str], says: str) -> None:
    import yaml

    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"base": "m", "arms": ["wanda:0.5"], "prompts": prompts, "grader": "f2"}))
    with pytest.raises(StudyError) as caught:
        read_study(file, {})
    assert says in str(caught.value)
    assert "unknown grader 'f2'" in str(caught.value)


def test_a_study_keeps_them() -> None:
    study = Study(
        base="m", arms=("wanda:0.5",), prompts={"open": "{question}"}, stop=("\n",), grader="exact_match"
    )
    again = Study.model_validate(study.model_dump(mode="json"))
    assert again.templates == Templates(open="{question}")
    assert again.grading == Grading("exact_match", ("\n",))


def test_stop_strings_and_built_in_graders() -> None:
    assert Grading(stop=("\n", "Q:")).cut("Rome Q: more\nlines") == "Rome "
    assert Grading().cut("Rome\n") == "Rome\n"
    assert Grading().is_right("It is Rome.", ["Rome"])
    assert not Grading("exact_match").is_right("It is Rome.", ["Rome"])
    assert Grading("f1").is_right("Rome Italy", ["Rome"])
    assert not Grading("f1").is_right("it is a city called Rome", ["Rome"])
    assert Grading("exact_match").named("Rome", ["Rome", "Rome Italy"]) == (0,)


def _ends_with(output: str, answers: Any) -> bool:
    return any(output.strip().endswith(answer) for answer in answers)


def test_a_grader_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    points = importlib.metadata.EntryPoints(
        [
            importlib.metadata.EntryPoint("ends_with", f"{__name__}:_ends_with", ENTRY_POINTS),
            importlib.metadata.EntryPoint("gone", "no_such_package:f", ENTRY_POINTS),
            importlib.metadata.EntryPoint("wrong", f"{__name__}:__doc__", ENTRY_POINTS),
        ]
    )
    monkeypatch.setattr("anomia.grade.entry_points", lambda group: points.select(group=group))
    grader_named.cache_clear()
    try:
        assert Grading("ends_with").is_right("so: 42", ["42"])
        assert not Grading("ends_with").is_right("42, so", ["42"])
        for name, says in (
            ("gone", "can't be imported"),
            ("wrong", "is not a function"),
            ("end_with", "did you mean"),
        ):
            with pytest.raises(StudyError, match=says):
                grader_named(name)
    finally:
        grader_named.cache_clear()
