"""The `mc:` reader: every way in which questions with options are stored, read alike."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import DataError
from anomia.items import build_items, read_questions
from anomia.items.choices import read_choices

WANT = ("What is the capital of Peru?", "Lima", ("Quito", "La Paz", "Bogota"))
OPTIONS = ["Quito", "Lima", "La Paz", "Bogota"]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


MMLU = {"question": WANT[0], "subject": "geography", "choices": OPTIONS, "answer": 1}
ARC = {
    "id": "M1",
    "question": WANT[0],
    "choices": {"text": OPTIONS, "label": ["A", "B", "C", "D"]},
    "answerKey": "B",
}
ARC_NUMBERED = {**ARC, "choices": {"text": OPTIONS, "label": ["1", "2", "3", "4"]}, "answerKey": "2"}
ARC_FIRST = {
    "id": "M1",
    "question": {
        "stem": WANT[0],
        "choices": [{"text": t, "label": n} for t, n in zip(OPTIONS, "ABCD", strict=True)],
    },
    "answerKey": "B",
}
OPENBOOKQA = {"id": "7", "question_stem": WANT[0], "choices": ARC["choices"], "answerKey": "B"}
MMLU_PRO = {"question_id": 70, "question": WANT[0], "options": OPTIONS, "answer": "B", "answer_index": 1}
BY_TEXT = {"question": WANT[0], "options": OPTIONS, "answer": "Lima"}
COLUMNS = {
    "question": WANT[0],
    **{f"mc_answer{n}": t for n, t in enumerate(OPTIONS, 1)},
    "correct_answer_num": 2,
}


@pytest.mark.parametrize("row", [MMLU, ARC, ARC_NUMBERED, ARC_FIRST, OPENBOOKQA, MMLU_PRO, BY_TEXT, COLUMNS])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_layout_gives_the_same_question(tmp_path: Path, row: dict[str, Any], suffix: str) -> None:
    file = tmp_path / f"questions{suffix}"
    if suffix == ".parquet":
        pl.DataFrame([row]).write_parquet(file)
    elif suffix == ".json":
        file.write_text(json.dumps([row]))
    else:
        write(file, row)
    (question,) = read_choices(file)["english"]
    assert (question.question, question.gold, question.distractors) == WANT
    assert question.context == ""


def test_csv_with_and_without_a_header(tmp_path: Path) -> None:
    bare = tmp_path / "bare.csv"
    bare.write_text('"What is the capital of Peru?",Quito,Lima,"La Paz",Bogota,B\n')
    named = tmp_path / "named.csv"
    named.write_text("question,A,B,C,D,answer\nWhat is the capital of Peru?,Quito,Lima,La Paz,Bogota,B\n")
    for file in (bare, named):
        (question,) = read_choices(file)["english"]
        assert (question.question, question.gold, question.distractors) == WANT


def test_one_reading_holds_for_the_whole_file(tmp_path: Path) -> None:
    """Blood types: alone, the answer "A" might be the text; beside an answer "D" it is the letter."""
    blood = {"question": "Which one?", "options": ["B", "A", "O", "AB"]}
    rows = [{**blood, "answer": "A"}, {**blood, "answer": "D"}]
    found = read_choices(write(tmp_path / "x.jsonl", *rows))["english"]
    assert [question.gold for question in found] == ["B", "AB"]
    digits = {"question": "How many?", "options": ["4", "3", "2", "7"]}
    by_text = [{**digits, "answer": "2"}, {**digits, "answer": "7"}]
    assert [q.gold for q in read_choices(write(tmp_path / "y.jsonl", *by_text))["english"]] == ["2", "7"]


def test_folders_languages_and_ids(tmp_path: Path) -> None:
    write(tmp_path / "us_history.jsonl", MMLU, MMLU)
    write(tmp_path / "arc_sw.jsonl", ARC)
    write(tmp_path / "own.jsonl", {**MMLU, "language": "de"})
    found = read_questions(f"mc:{tmp_path}")
    assert {language: [q.id for q in questions] for language, questions in found.items()} == {
        "english": ["us_history/1", "us_history/2"], "german": ["own/1"], "swahili": ["arc_sw/M1"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"question": ""}, "has no question"),
        ({"choices": ["one"]}, "2 to 26"),
        ({"choices": ["a"] * 27}, "2 to 26"),
        ({"choices": ["a", ""]}, "2 to 26"),
        ({"choices": "one"}, "has no options"),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}}, "2 options and 1 labels"),
        ({"answer": None}, "has no answer"),
        ({"answer": True}, "has no answer"),
        ({"answer": 4}, "none of its 4 options"),
        ({"answer": "Paris"}, "none of its 4 options"),
        ({"context": 3}, "are texts"),
    ],
)
def test_faults_name_the_row(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match="row 2") as caught:
        read_choices(write(tmp_path / "x.jsonl", MMLU, {**MMLU, **changes}))
    assert says in str(caught.value)


def test_answers_of_several_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="of several kinds"):
        read_choices(write(tmp_path / "x.jsonl", MMLU, BY_TEXT))


@pytest.mark.parametrize("content", [b"\xff", b"question\n", b'a,"b\n', b"question,A,B,answer\nQ,x,y\n"])
def test_files_that_are_no_csv(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError):
        read_choices(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match="no Parquet file"):
        read_choices(tmp_path / "x.parquet")


# Of two letters and more, so that no text reads as a letter.
@given(st.lists(st.text("abcdef", min_size=2), min_size=2, max_size=26, unique=True), st.data())
def test_index_letter_and_text_mean_the_same(options: list[str], data: st.DataObject) -> None:
    right = data.draw(st.integers(0, len(options) - 1))
    for answer in (right, chr(ord("A") + right), options[right]):
        with tempfile.TemporaryDirectory() as folder:
            row = {"question": "Q", "options": options, "answer": answer}
            (question,) = read_choices(write(Path(folder) / "x.jsonl", row))["english"]
        assert question.gold == options[right]
        assert set(question.distractors) == set(options) - {question.gold}


def test_the_given_options_are_the_options(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Q{n}",
            "options": [f"right {n}", *(f"wrong {n} {k}" for k in range(n % 4 + 1))],
            "answer": 0,
        }
        for n in range(12)
    ]
    items = build_items(
        read_questions(f"mc:{write(tmp_path / 'x.jsonl', *rows)}"), dataset="mc", limit=None, seed=1
    )["english"].items
    for item in items:
        assert set(item.options["standard"]) == {item.question.gold, *item.question.distractors}
        assert item.foil == item.question.distractors[0]
        assert "passage" not in item.options
    assert {len(item.options["standard"]) for item in items} == {2, 3, 4, 5}


def test_options_that_grading_cannot_tell_apart_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "options": [f"a{n}", "b", "c", "d"], "answer": 0} for n in range(8)]
    rows.append({"question": "minus", "options": ["-1", "1", "2", "3"], "answer": 0})
    found = build_items(
        read_questions(f"mc:{write(tmp_path / 'x.jsonl', *rows)}"), dataset="mc", limit=None, seed=1
    )["english"]
    assert found.excluded["ambiguous_options"] == 1
    assert "minus" not in {item.question.question for item in found.items}
