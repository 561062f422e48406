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
from anomia.items.choice_answers import READINGS
from anomia.items.choices import read_choices

WANT = ("What is the capital of Peru?", "Lima", ("Quito", "La Paz", "Bogota"))
OPTIONS = ["Quito", "Lima", "La Paz", "Bogota"]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


MMLU = {"question": WANT[0], "subject": "geography", "choices": OPTIONS, "answer": 1}
# In a file with a 0 no answer can be counted from 1.
FIRST = {**MMLU, "question": "What is the capital of Ecuador?", "answer": 0}
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


@pytest.mark.parametrize("row", [ARC, ARC_NUMBERED, ARC_FIRST, OPENBOOKQA, MMLU_PRO, BY_TEXT, COLUMNS])
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
    write(tmp_path / "us_history.jsonl", MMLU, FIRST)
    write(tmp_path / "arc_sw.jsonl", ARC)
    write(tmp_path / "own.jsonl", {**FIRST, "language": "de"})
    found = read_questions(f"mc:{tmp_path}")
    assert {language: [q.id for q in questions] for language, questions in found.items()} == {
        "english": ["us_history/1", "us_history/2"], "german": ["own/1"], "swahili": ["arc_sw/M1"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"question": ""}, "has no question; it has question, subject, choices, answer"),
        ({"choices": ["one"]}, "2 to 26"),
        ({"choices": ["a"] * 27}, "2 to 26"),
        ({"choices": ["a", ""]}, "2 to 26"),
        ({"choices": "one"}, "has no options that can be read in 'choices'"),
        ({"choices": ["one", True]}, "has no options that can be read in 'choices'"),
        ({"choices": None}, "has no options; it has question, subject, choices, answer"),
        ({"choices": {"text": ["a", "b"], "label": ["A"]}}, "2 options and 1 labels"),
        ({"answer": None}, "has no answer; it has question, subject, choices, answer"),
        ({"answer": -1}, "test splits without answers have -1 there"),
        ({"choices": ["x", "x", "y"], "answer": "x"}, "the answer 'x' appears 2 times among its options"),
        ({"answer": "9" * 5000}, "not one of its 4 options"),
        ({"answer": True}, "has no answer"),
        ({"answer": 5}, "not one of its 4 options"),
        ({"answer": "Paris"}, "not one of its 4 options"),
        ({"context": []}, "are texts"),
    ],
)
def test_faults_name_the_row(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match="line 2") as caught:
        read_choices(write(tmp_path / "x.jsonl", MMLU, {**MMLU, **changes}))
    assert says in str(caught.value)


def test_answers_of_several_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"line 3: .* of several kinds: most fit as an index from 0, 'Lima' as the"
    ):
        read_choices(write(tmp_path / "x.jsonl", MMLU, FIRST, BY_TEXT))


def golds(path: Path, answer: str | None = None) -> list[str]:
    return [question.gold for found in read_choices(path, answer=answer).values() for question in found]


AMBIGUOUS = [
    # No 0 and no 4: counted from 0 or from 1?
    (OPTIONS, 2, {"index": "La Paz", "index1": "Lima"}),
    # Numbers as options.
    (["2", "3", "1", "0"], "2", {"index": "1", "index1": "3", "text": "2"}),
    ([2, 3, 1, 0], 0, {"index": "2", "text": "0"}),
    # Letters as options.
    (["B", "A", "O", "AB"], "A", {"letter": "B", "text": "A"}),
]


@pytest.mark.parametrize(("options", "answer", "meant"), AMBIGUOUS)
@pytest.mark.parametrize("rows", [1, 30])
def test_an_answer_that_may_mean_two_options_is_refused_until_the_study_says_which(
    tmp_path: Path, options: list[Any], answer: int | str, meant: dict[str, str], rows: int
) -> None:
    row = {"question": "Q", "options": options, "answer": answer}
    file = write(tmp_path / "x.jsonl", *[row] * rows)
    with pytest.raises(DataError, match="line 1: the answer") as caught:
        read_questions(f"mc:{file}")
    for word, gold in meant.items():
        assert f"{gold!r} ({READINGS[word].label})" in str(caught.value)
        questions = read_questions(f"mc:{file},answer={word}")["english"]
        assert {question.gold for question in questions} == {gold}
    first, *others = meant
    assert str(caught.value).endswith(f"say which: mc:{file},answer={first} (or {', '.join(others)})")


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ([0, 1, 3, 2, 1], [0, 1, 3, 2, 1]),
        (["0", "3"], [0, 3]),
        ([1.0, 0.0], [1, 0]),
        ([1, 2, 3, 4] * 5, [0, 1, 2, 3] * 5),
        (["4", "1"], [3, 0]),
        (["A", "d"], [0, 3]),
    ],
)
def test_ordinary_answers_need_no_word(tmp_path: Path, answers: list[Any], right: list[int]) -> None:
    rows = [{"question": "Q", "options": OPTIONS, "answer": answer} for answer in answers]
    assert golds(write(tmp_path / "x.jsonl", *rows)) == [OPTIONS[place] for place in right]


def test_labels_of_the_file_say_what_its_answers_mean(tmp_path: Path) -> None:
    """ARC has rows with the labels 1 to 4 among those with letters; some of its files have no other."""
    assert golds(write(tmp_path / "x.jsonl", ARC_NUMBERED)) == ["Lima"]
    assert golds(write(tmp_path / "y.jsonl", ARC_NUMBERED, ARC)) == ["Lima", "Lima"]
    from_b = {**ARC, "choices": {"text": OPTIONS, "label": ["B", "C", "D", "A"]}}
    assert golds(write(tmp_path / "z.jsonl", from_b)) == ["Quito"]


def test_the_word_for_a_reading_is_checked_and_stands_at_the_end_of_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "a,answer=text" / "b,c?d"
    folder.mkdir(parents=True)
    file = write(folder / "x.jsonl", MMLU)
    assert golds(file, "index1") == [q.gold for q in read_questions(f"mc:{file},answer=index1")["english"]]
    assert read_questions(f"mc:{folder},answer=index")["english"][0].gold == "Lima"
    with pytest.raises(DataError, match="can't be read as 'indx'; did you mean 'index'"):
        read_questions(f"mc:{file},answer=indx")
    with pytest.raises(
        DataError, match="line 1: the answer '1' is not one of its 4 options when it is read as answer=text"
    ):
        read_questions(f"mc:{file},answer=text")
    with pytest.raises(DataError, match="'mc' needs a path"):
        read_questions("mc:,answer=text")


KNOWN_SETS = {
    "hellaswag": (
        {"ind": 4, "activity_label": "Tea", "ctx_a": "x", "ctx": WANT[0], "endings": OPTIONS, "label": "1"},
        "",
    ),
    "winogrande": ({"sentence": WANT[0], "option1": "Lima", "option2": "Quito", "answer": "1"}, ""),
    "piqa": ({"goal": WANT[0], "sol1": "Quito", "sol2": "Lima", "label": 1}, ""),
    "sciq": (
        {"question": WANT[0], "distractor1": "Quito", "distractor2": "La Paz", "distractor3": "Bogota",
         "correct_answer": "Lima", "support": "Passage."},
        "Passage.",
    ),
    "medmcqa": (
        {"id": "e9ad", "question": WANT[0], "opa": "Lima", "opb": "La Paz", "opc": "Quito", "opd": "Bogota", "cop": 0,
         "choice_type": "single", "exp": "x"},
        "",
    ),
    "truthfulqa": (
        {"question": WANT[0], "mc1_targets": {"choices": OPTIONS, "labels": [0, 1, 0, 0]},
         "mc2_targets": {"choices": OPTIONS, "labels": [1, 1, 0, 0]}},
        "",
    ),
    "race": (
        {"example_id": "high1.txt", "article": "Passage.", "answer": "B", "question": WANT[0], "options": OPTIONS},
        "Passage.",
    ),
    "belebele": ({**COLUMNS, "flores_passage": "Passage.", "correct_answer_num": "2"}, "Passage."),
    "global_mmlu": (
        {"sample_id": "a/1", "question": WANT[0], **{f"option_{n}": t for n, t in zip("abcd", OPTIONS, strict=True)},
         "answer": "B"},
        "",
    ),
    "commonsenseqa": ({**ARC, "question_concept": "city"}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN_SETS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_fields_of_known_sets(tmp_path: Path, name: str, suffix: str) -> None:
    row, context = KNOWN_SETS[name]
    file = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pl.DataFrame([row]).write_parquet(file)
    else:
        write(file, row)
    (question,) = read_choices(file)["english"]
    assert (question.question, question.gold, question.context) == (WANT[0], "Lima", context)
    assert set(question.distractors) <= set(OPTIONS) - {"Lima"}


def test_unknown_fields_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", {"prompt": "Q", "endings": OPTIONS, "odd\nname": 1})
    with pytest.raises(DataError, match=r"line 1 has no question; it has prompt, endings, 'odd\\nname'$"):
        read_choices(file)
    with pytest.raises(DataError, match="marks no single right option"):
        read_choices(write(file, {"question": "Q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}))


def test_field_names_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Question,a,b,C,D,Answer,LANGUAGE\nQ,w,x,y,z,B,sw\n")
    (question,) = read_choices(tmp_path / "x.csv")["swahili"]
    assert (question.question, question.gold) == ("Q", "x")
    assert golds(write(tmp_path / "y.jsonl", {"QUESTION": "Q", "Choices": ["a", "b"], "AnswerKey": "B"})) == [
        "b"
    ]


def test_numbers_as_options(tmp_path: Path) -> None:
    assert golds(write(tmp_path / "x.jsonl", {"question": "Q", "choices": [10, 20, 30], "answer": 20})) == [
        "20"
    ]


def test_tables_with_other_separators(tmp_path: Path) -> None:
    lines = "question;A;B;answer\nQ;w;x;B\n"
    (tmp_path / "x.TSV").write_text(lines.replace(";", "\t"))
    assert golds(tmp_path / "x.TSV") == ["x"]
    for name, separator, says in [
        ("semicolons.csv", ";", "it has question;A;B;answer; put commas between the columns"),
        ("tabs.csv", "\t", "those of a .tsv file tabs"),
        ("unknown.txt", ",", "known: .jsonl, .json, .csv, .tsv, .parquet"),
    ]:
        (tmp_path / name).write_text(lines.replace(";", separator))
        with pytest.raises(DataError) as caught:
            read_choices(tmp_path / name)
        assert says in str(caught.value)
    (tmp_path / "header.csv").write_text("prompt,A,B,answer\nQ,w,x,B\n")
    with pytest.raises(DataError, match="no column 'question'; it has prompt, A, B, answer"):
        read_choices(tmp_path / "header.csv")


def test_a_folder_whose_files_lie_one_level_down(tmp_path: Path) -> None:
    for name in ("dev", "test"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.jsonl", FIRST)
    (tmp_path / "README.md").write_text("")
    with pytest.raises(DataError, match=rf"files only in its folders; .*mc:{tmp_path}/dev \(and 1 more\)"):
        read_choices(tmp_path)


@pytest.mark.parametrize("content", [b"\xff", b"question\n", b'a,"b\n', b"question,A,B,answer\nQ,x,y\n"])
def test_files_that_are_no_csv(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError):
        read_choices(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match="not a Parquet file"):
        read_choices(tmp_path / "x.parquet")


# Of two letters and more, so that no text reads as a letter.
@given(st.lists(st.text("abcdef", min_size=2), min_size=2, max_size=26, unique=True), st.data())
def test_index_letter_and_text_mean_the_same(options: list[str], data: st.DataObject) -> None:
    right = data.draw(st.integers(0, len(options) - 1))
    for first, answer in ((0, right), ("A", chr(ord("A") + right)), (options[0], options[right])):
        with tempfile.TemporaryDirectory() as folder:
            rows = [{"question": "Q", "options": options, "answer": each} for each in (first, answer)]
            _, question = read_choices(write(Path(folder) / "x.jsonl", *rows))["english"]
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
        assert item.control == item.question.distractors[0]
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
