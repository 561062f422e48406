"""Rows as the hub, pandas and spreadsheets write them: the same questions, or one message with the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from anomia.errors import DataError
from anomia.items import build_items
from anomia.items.readers import read_questions

ANSWERS = ("Ann", "Ann Lee")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(data: str) -> list[Any]:
    return [question for found in read_questions(data).values() for question in found]


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Ann", "Ann Lee"], "answer_start": [0, 0]},
        [{"text": "Ann", "answer_start": 0}, {"text": "Ann Lee", "answer_start": 0}],
        {"value": "Ann", "aliases": ["Ann Lee"], "normalized_value": "ann", "matched_wiki_entity_name": ""},
        {"value": "Ann", "aliases": ["Ann", None, "Ann Lee"]},
        ["Ann", None, "Ann Lee", "Ann", " "],
    ],
)
def test_answers_in_the_forms_of_the_hub(tmp_path: Path, answers: Any) -> None:
    rows = {"question": "Who?", "answers": answers}, {"question": "Who?", "answer": answers}
    for row in rows:
        (found,) = questions(f"jsonl:{write(tmp_path / 'x.jsonl', row)}")
        assert found.answers == ANSWERS
    squad = {"data": [{"paragraphs": [{"context": "Ann Lee won.", "qas": [{"id": 7, **rows[0]}]}]}]}
    (tmp_path / "en.json").write_text(json.dumps(squad))
    (found,) = questions(f"squad:{tmp_path / 'en.json'}")
    assert (found.id, found.answers) == ("7", ANSWERS)


def test_questions_without_an_answer_in_both_forms_of_squad_2(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "Who?", "answers": {"text": ["Ann"], "answer_start": [0]}},
        {"id": "b", "question": "Who?", "answers": {"text": [], "answer_start": []}},
        {"id": "c", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    assert [found.id for found in questions(f"jsonl:{write(tmp_path / 'x.jsonl', *rows)}")] == ["a"]
    with pytest.raises(DataError, match="has no question with an answer"):
        questions(f"jsonl:{write(tmp_path / 'x.jsonl', *rows[1:])}")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"question": "Who?", "answers": {"spans": ["x"]}},
            "'answers' holds an object with spans; give texts, or",
        ),
        ({"question": "Who?", "answers": ["a", True]}, "'answers' is not a list of texts"),
        ({"question": "Who?", "answers": [float("inf")]}, "'answers' is not a list of texts"),
        ({"question": "Who?", "answers": "a", "id": float("nan")}, "line 1: 'id' is not a text"),
        ({"question": "Who?", "answers": "a", "id": {"n": 1}}, "line 1: 'id' is not a text"),
        ({"question": "Who?", "answers": "a", "context": {"sentences": []}}, "('context') is not a text"),
        ({"question": "\u200b", "answers": "a"}, "has no question; it has question, answers"),
        (
            {"question": "Who?", "answer": "a", "Answer": "b"},
            "the field 'answer' twice with different values",
        ),
    ],
)
def test_values_that_are_no_text(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError) as caught:
        questions(f"jsonl:{write(tmp_path / 'x.jsonl', row)}")
    assert says in str(caught.value)


def test_what_is_not_read_may_hold_anything(tmp_path: Path) -> None:
    row = {
        "question": "Who?",
        "answers": "a",
        "score": float("nan"),
        "Answers": "a",
        "flag": True,
        "ANSWER": None,
    }
    (found,) = questions(f"jsonl:{write(tmp_path / 'x.jsonl', row)}")
    assert found.answers == ("a",)


def test_null_is_absent_and_blank_lines_number_nothing(tmp_path: Path) -> None:
    row = {"id": None, "language": None, "context": None, "answers": None, "distractors": None}
    path = tmp_path / "x.german.jsonl"
    path.write_text("\n\n".join(json.dumps({**row, "question": f"q{n}", "answer": n}) for n in (1, 2)))
    found = questions(f"jsonl:{path}")
    assert [(each.id, each.language, each.context, each.answers) for each in found] == [
        ("1", "german", "", ("1",)),
        ("2", "german", "", ("2",)),
    ]


def test_numbers_are_texts_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 7.0, "question": "Which Python?", "answers": [3.10, 1889.0, 5, "5"]}\n')
    (found,) = questions(f"jsonl:{path}")
    assert (found.id, found.answers) == ("7", ("3.10", "1889", "5"))


OPTIONS = ["Quito", "Lima", "La Paz"]
FORMS: list[Any] = [
    {"text": OPTIONS, "label": ["A", "B", "C"]},
    {"text": [*OPTIONS, None], "label": ["A", "B", "C", None]},
    [*OPTIONS, None],
    {"A": "Quito", "B": "Lima", "C": "La Paz", "D": None},
    [{"key": "A", "value": "Quito"}, {"key": "B", "value": "Lima"}, {"key": "C", "value": "La Paz"}],
    [{"text": "Quito", "label": "A"}, {"text": "Lima", "label": "B"}, {"text": "La Paz", "label": "C"}],
]


@pytest.mark.parametrize("form", FORMS)
def test_options_in_the_forms_of_the_hub(tmp_path: Path, form: Any) -> None:
    row = {"question": "Q?", "options": form, "answer": "B"}
    pl.DataFrame([row]).write_parquet(tmp_path / "a.parquet")
    write(tmp_path / "b.jsonl", row)
    # What pandas and `datasets` write of a column of objects: as JSON, and as Python prints it.
    for name, cell in (("c.csv", json.dumps(form)), ("d.csv", repr(form))):
        pl.DataFrame([{**row, "options": cell}]).write_csv(tmp_path / name)
    for path in sorted(tmp_path.iterdir()):
        (found,) = questions(f"mc:{path}")
        assert (found.gold, found.distractors) == ("Lima", ("Quito", "La Paz")), path.name


def test_a_list_that_numpy_printed_is_not_read_as_one_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("question,choices,answer\nQ?,\"['Quito' 'Lima'\n 'La Paz']\",1\n")
    with pytest.raises(DataError, match="line 2: its list of options has no commas between its texts"):
        questions(f"mc:{tmp_path / 'x.csv'}")


def test_an_index_that_pandas_made_a_float(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,A,B,C,answer\n" + "".join(f"q{n},a,b,c,{n % 3}.0\n" for n in range(6)))
    assert [found.gold for found in questions(f"mc:{path}")] == ["a", "b", "c"] * 2
    # Where an option is called so, it is asked which is meant.
    path.write_text("question,A,B,C,answer\nq,0.0,2.0,1.0,2.0\n")
    with pytest.raises(DataError, match=r"may mean '1\.0'"):
        questions(f"mc:{path}")
    path.write_text("question,A,B,C,answer\nq,a,b,c,-1.0\n")
    with pytest.raises(DataError, match="test splits without answers have -1 there"):
        questions(f"mc:{path}")
    path.write_text("question,A,B,C,answer\nq,a,b,c,1.5\n")
    with pytest.raises(DataError, match="not one of its 3 options"):
        questions(f"mc:{path}")


def test_tables_of_spreadsheets_and_of_pandas(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,A,B,answer,,\nQ?,a,b,B,,\n,,,,,\nR?,c,d,A,,\n")
    assert [found.gold for found in questions(f"mc:{path}")] == ["b", "c"]
    path.write_text(",question,A,B,answer\n0,Q?,a,b,B\n1,R?,c,d,A\n")
    assert [found.id for found in questions(f"mc:{path}")] == ["1", "2"]
    # Without a header, as MMLU; some spreadsheets add commas there too.
    path.write_text("Q?,a,b,B,\nR?,c,d,A,\n")
    assert [found.gold for found in questions(f"mc:{path}")] == ["b", "c"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # Read on, the question would be "Q" and the answer an option.
        (
            "question,A,B,answer\nQ, or not?,a,b,B\n",
            "line 2 has 5 cells, not 4; put a text that contains a comma in quotes",
        ),
        ('question,A,B,answer\n"Q\n?",a,b,B\n\nR?,a,B\n', "line 5 has 3 cells, not 4"),
        ("question,A,B,answer\nQ?,a,b,B,\nR?,a,b,B,x\n", "line 3 has 5 cells, not 4"),
        ("question,A,B,answer,answer\nQ?,a,b,B,A\n", "has two columns 'answer'; rename or remove one"),
        (
            "question,A,B,answer,Answer\nQ?,a,b,B,A\n",
            "line 2 has the field 'answer' twice with different values",
        ),
        ("question,A,B,C,D,answer\nQ?,a,b,,d,A\n", "line 2: the option 'c' is empty and a later one is not"),
    ],
)
def test_tables_that_would_be_read_as_something_else(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        questions(f"mc:{tmp_path / 'x.csv'}")
    assert says in str(caught.value)


def test_a_null_among_options_shifts_none(tmp_path: Path) -> None:
    row = {"question": "Q?", "options": ["a", None, "c"], "answer": 2}
    with pytest.raises(DataError, match="no options that can be read in 'options'"):
        questions(f"mc:{write(tmp_path / 'x.jsonl', row)}")


def test_json_lines_with_arrays_and_squad_rows_by_the_wrong_name(tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text(json.dumps([{"question": "Who?", "answers": {"text": ["Ann"]}}]))
    assert questions(f"jsonl:{tmp_path / 'en.json'}")[0].gold == "Ann"
    with pytest.raises(
        DataError, match=r"not in SQuAD format: .* for rows with one question each write jsonl:.*en\.json"
    ):
        questions(f"squad:{tmp_path / 'en.json'}")


def test_repeated_questions_are_named_as_such(tmp_path: Path) -> None:
    rows = [{"id": n, "question": f"q{n}", "answers": [f"answer {n}"]} for n in range(6)]
    with pytest.raises(DataError, match="the id '2' appears twice, the second time as question 7; keep one"):
        questions(f"jsonl:{write(tmp_path / 'x.jsonl', *rows, rows[2])}")
    with pytest.raises(DataError, match="two questions have the id '2': 'q2' and 'other'; ids must differ"):
        questions(f"jsonl:{write(tmp_path / 'x.jsonl', *rows, {**rows[2], 'question': 'other'})}")
    # Real sets have some (XQuAD 3 to 7 a language), so they stay and are counted.
    path = write(tmp_path / "x.jsonl", *rows, {**rows[2], "id": "again"})
    (found,) = build_items(read_questions(f"jsonl:{path}"), dataset="x", limit=None, seed=1).values()
    assert found.excluded["repeated"] == 1
    assert len(found.items) == 6
