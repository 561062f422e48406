"""Readers: what they take, and one clear message for what they don't."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anomia.errors import DataError, StudyError
from anomia.items.readers import read_questions
from anomia.study import read_study
from tests.conftest import entry

Write = Callable[..., Path]


def squad(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"data": [{"paragraphs": [{"context": "Rome lies in Italy.", "qas": list(entries)}]}]}


def qa(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": "Where is Rome?", "answers": [{"text": "Italy"}], **changes}


def write_squad(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_folder_has_one_file_a_language(tmp_path: Path) -> None:
    write_squad(tmp_path / "xquad.sw.json", squad(qa()))
    write_squad(tmp_path / "english.json", squad(qa(1), qa(2)))
    found = read_questions(f"squad:{tmp_path}")
    assert {language: len(questions) for language, questions in found.items()} == {"swahili": 1, "english": 2}
    assert list(read_questions(f"squad:{tmp_path}", ["sw"])) == ["swahili"]


def test_impossible_questions_are_left_out(tmp_path: Path) -> None:
    file = write_squad(tmp_path / "english.json", squad(qa(1), qa(2, is_impossible=True, answers=[])))
    assert [q.id for q in read_questions(f"squad:{file}")["english"]] == ["q1"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{not json", "is not JSON (line 1"),
        ('{"data": 3}', "no list under 'data'"),
        ("[]", "no list under 'data'"),
        (squad(qa(answers=[])), "has no answer"),
        (squad(qa(answers=[{"text": " "}])), "has no answer"),
        (squad(qa(id=None)), "qas[0] has no id"),
        (squad(qa(question="")), "has no question"),
        (squad(qa(1), qa(1)), "the id 'q1' appears twice, the second time as question 2"),
        (
            squad(qa(1), qa(1, question="And Oslo?")),
            "two questions have the id 'q1': 'Where is Rome?' and 'And",
        ),
        ({"data": [{"paragraphs": [{"qas": [qa()]}]}]}, "has no passage"),
        ({"data": [{"paragraphs": [{"context": "x"}]}]}, "has no list 'qas'"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": ["y"]}]}]}, "has no list 'answers'"),
        (squad(qa(answers=[[3]])), "is not a list of texts"),
        (squad(qa(answers=[{"start": 3}])), "holds an object with start"),
    ],
)
def test_faults_of_squad_files(tmp_path: Path, content: Any, says: str) -> None:
    file = write_squad(tmp_path / "english.json", content)
    with pytest.raises(DataError) as caught:
        read_questions(f"squad:{file}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "english.json"
    file.write_bytes(b'{"data": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        read_questions(f"squad:{file}")


def test_json_lines_may_lack_a_passage(write_jsonl: Write) -> None:
    file = write_jsonl([entry(1, context=""), entry(2, distractors=["a", "b", "c"]), entry(1, "swahili")])
    found = read_questions(f"jsonl:{file}")
    assert found["english"][0].context == ""
    assert found["english"][1].distractors == ("a", "b", "c")
    assert set(found) == {"english", "swahili"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": True}, "line 1: 'id' is not a text"),
        ({"answers": []}, "has no answer"),
        ({"answers": None}, "has no answer"),
        ({"answers": [float("nan")]}, "not a list of texts"),
        ({"answers": True}, "not a list of texts"),
        ({"language": ["en"]}, "'language' is not a text"),
        ({"question": " "}, "has no question"),
        ({"question": []}, "'question' is not a text"),
        ({"context": [3]}, "passage ('context') is not a text"),
    ],
)
def test_faults_of_json_lines(write_jsonl: Write, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        read_questions(f"jsonl:{write_jsonl([entry(1, **changes)])}")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("tydiqua", "data: unknown data set 'tydiqua'; did you mean 'tydiqa'"),
        ("json:x.jsonl", "did you mean 'jsonl'"),
        (
            "nowhere.jsonl",
            "how to read it: jsonl:nowhere.jsonl (questions and answers) or mc:nowhere.jsonl (questions",
        ),
        ("q.csv", "how to read it: mc:q.csv (questions with options)"),
        (
            "q.json",
            "how to read it: mc:q.json (questions with options) or prompts:q.json (prompts, with or without answers) or "
            "squad:q.json (SQuAD's format)",
        ),
        ("a\0.csv", "how to read it: mc:"),
        ("mc:" + "a" * 5000, "can't be read"),
        ("jsonl:~nobody-of-this-name/q", "does not exist"),
        ("squad:", "needs a path"),
        ("mc", "needs a path"),
        ("mc:/nowhere", "does not exist"),
        ("squad:/nowhere", "does not exist"),
        ("jsonl:/nowhere", "does not exist"),
        ("demo:x", "takes no argument"),
    ],
)
def test_faults_of_the_name(data: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(data)
    assert says in str(caught.value)


def test_questions_without_passages_as_nq_open_has_them(tmp_path: Path) -> None:
    file = tmp_path / "nq.jsonl"
    file.write_text(
        '{"question": "who wrote it", "answer": ["Ann Lee", "Lee"]}\n{"question": "when", "answer": "1900"}\n'
    )
    first, second = read_questions(f"jsonl:{file}")["english"]
    assert (first.id, first.context, first.answers) == ("1", "", ("Ann Lee", "Lee"))
    assert (second.id, second.answers) == ("2", ("1900",))
    assert first.passage_id != second.passage_id
    in_german = tmp_path / "nq.german.jsonl"
    in_german.write_bytes(file.read_bytes())
    assert list(read_questions(f"jsonl:{in_german}")) == ["german"]


def test_fields_of_json_lines_in_any_case_and_numbers_as_answers(write_jsonl: Write) -> None:
    file = write_jsonl(
        [{"Question": "When?", "Answer": 1889}, {"question": "And?", "answers": [1900, "then"]}]
    )
    assert [q.answers for q in read_questions(f"jsonl:{file}")["english"]] == [("1889",), ("1900", "then")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"question": "Q?"}, r"has no answer; it has question; give at least one text in 'answers'"),
        ({}, r"has no question; it has no fields$"),
        ({"prompt": "Q?", "answer": "a"}, r"has no question; it has prompt, answer$"),
        (
            {"question": "Q?", "choices": ["a", "b"], "answer": 1},
            r"has options.*give the file as mc:.*\.jsonl$",
        ),
    ],
)
def test_a_line_that_lacks_a_part_tells_what_it_has(
    write_jsonl: Write, line: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read_questions(f"jsonl:{write_jsonl([line])}")


def test_a_path_alone_is_answered_with_how_it_can_be_read(write_jsonl: Write, tmp_path: Path) -> None:
    file = write_jsonl([entry(1)])
    for path, says in (
        (file, f"jsonl:{file} (questions"),
        (tmp_path, f"mc:{tmp_path} (questions with options) or squad:{tmp_path} (SQuAD's format)"),
    ):
        with pytest.raises(DataError) as caught:
            read_questions(str(path))
        assert says in str(caught.value)
        with pytest.raises(StudyError, match="- data: '/") as told:
            read_study(None, {"base": "b", "arms": ["int8"], "data": str(path)})
        assert says in str(told.value)


def test_half_characters_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    for content in ('{"question": "\\ud800", "answer": "a"}', "[" * 100_000, '{"id": ' + "9" * 5000 + "}"):
        file.write_text(content)
        with pytest.raises(
            DataError, match=r"bad\.jsonl(, line 1)? (holds half|is not JSON that can be read)"
        ):
            read_questions(f"jsonl:{file}")


def test_an_unknown_language_names_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'swahili'"):
        read_questions("demo", ["swahli"])


def test_an_empty_folder_and_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_questions(f"jsonl:{tmp_path / 'none.jsonl'}")
    with pytest.raises(DataError, match=r"no \.json file"):
        read_questions(f"squad:{tmp_path}")


def test_real_tydiqa_and_xquad(shared_data: Path) -> None:
    tydiqa = read_questions(f"squad:{shared_data / 'tydiqa_goldp' / 'dev'}")
    assert {name: len(found) for name, found in tydiqa.items()} == {
        "arabic": 921, "bengali": 113, "english": 440, "finnish": 782, "indonesian": 565, "korean": 276,
        "russian": 812, "swahili": 499, "telugu": 669,
    }  # fmt: skip
    xquad = read_questions(f"squad:{shared_data / 'xquad'}", ["en", "th"])
    assert {name: len(found) for name, found in xquad.items()} == {"english": 1190, "thai": 1190}
