"""The rules for text, wherever it is read from: what is taken, and one message that names line and remedy."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomia.compress.calibration import read_calibration
from anomia.compress.options import TextOptions
from anomia.errors import DataError
from anomia.interop.lm_eval_log import read_lm_eval
from anomia.items.item import Question
from anomia.items.readers import read_questions
from anomia.text_files import as_text, decoded, json_lines, parse_json, table, unpacked
from tests.interop.logs import open_sample

MARK = b"\xef\xbb\xbf"
# Every character at which `str.splitlines` breaks a line, and `\n` does not.
BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
ROW = {
    "id": "7",
    "context": "A passage.",
    "question": "Who?",
    "A": "Ann",
    "B": "Bo",
    "C": "Cy",
    "answer": "B",
}


def questions_of(path: Path) -> list[Question]:
    name = "jsonl" if path.stem.startswith("open") else "squad" if path.stem.startswith("squad") else "mc"
    return [question for found in read_questions(f"{name}:{path}").values() for question in found]


def logged(path: Path) -> list[Any]:
    found = read_lm_eval(path)
    assert found is not None
    return [(sample.question, sample.text, sample.answers) for sample in found.samples]


def passages(path: Path) -> list[Any]:
    return list(read_calibration(TextOptions(source=f"file:{path}")).texts)


def as_lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


ODD = f"one{BREAKS}two"
SQUAD = {
    "data": [
        {"paragraphs": [{"context": ODD, "qas": [{"id": 7, "question": ODD, "answers": [{"text": ODD}]}]}]}
    ]
}
OPEN = {"id": 7, "question": ODD, "answers": [ODD, 1889]}
LOG = open_sample(1, ODD, True, target=ODD, doc={"question": ODD, "answers": [ODD]})
# What every reader gets, and what comes of it.
READERS: dict[str, tuple[str, Callable[[Path], list[Any]]]] = {
    "open.jsonl": (as_lines(OPEN, {**OPEN, "id": 8}), questions_of),
    "open.json": (json.dumps([OPEN, {**OPEN, "id": 8}], ensure_ascii=False, indent=1), questions_of),
    "squad.en.json": (json.dumps(SQUAD, ensure_ascii=False, indent=1), questions_of),
    "mc.jsonl": (as_lines({**ROW, "A": ODD}, {**ROW, "id": 8}), questions_of),
    "mc.json": (json.dumps([{**ROW, "question": ODD}], ensure_ascii=False), questions_of),
    "mc.csv": (f'id,question,A,B,answer\n7,{ODD},"Ann, or {ODD}",Bo,B\n', questions_of),
    "mc.tsv": (f"id\tquestion\tA\tB\tanswer\n7\t{ODD}\tAnn\tBo\tB\n", questions_of),
    "text.jsonl": (as_lines({"text": ODD}, {"text": "three"}), passages),
    "text.txt": (f"{ODD}\n\nthree\nfour\n", passages),
    "samples_x.jsonl": (as_lines(LOG, {**LOG, "doc_id": 2}), logged),
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bytes, Callable[[Path], list[Any]]]:
    text, read = READERS[request.param]
    return tmp_path / request.param, text.encode(), read


def test_every_reader_takes_marks_and_windows_line_ends_and_breaks_no_line(reader: Any) -> None:
    path, content, read = reader
    path.write_bytes(content)
    plain = read(path)
    assert ODD in repr(plain).encode().decode("unicode_escape") or any(
        ODD in str(part) for part in _texts(plain)
    )
    for other in (MARK + content, content.replace(b"\n", b"\r\n"), MARK + content.replace(b"\n", b"\r\n")):
        path.write_bytes(other)
        assert read(path) == plain


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Question):
        yield from (value.question, value.context, *value.answers, *value.distractors)
    else:
        for each in value or ():
            yield from _texts(each)


def test_blank_lines_change_nothing(reader: Any) -> None:
    path, content, read = reader
    path.write_bytes(content)
    plain = read(path)
    between = b"\n" if path.suffix == ".txt" else b"\n \t\n"
    for other in (b"\n\n" + content, content.replace(b"\n", between), content + b"\n\r\n"):
        path.write_bytes(other)
        assert read(path) == plain


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (lambda text: text.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (lambda text: text.encode("utf-16-le"), "is UTF-16 text; save it as UTF-8"),
        (lambda text: text.encode("utf-16-be"), "is UTF-16 text; save it as UTF-8"),
        (lambda text: text.encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
        (
            lambda text: b"caf\xe9 " + text.encode(),
            "line 1 is not UTF-8 text (invalid continuation byte: 0xe9)",
        ),
        (
            lambda text: gzip.compress(text.encode()),
            "is compressed (gzip), whatever its name says; unpack it",
        ),
        (lambda text: b"PK\x03\x04" + text.encode(), "is a zip archive or a spreadsheet"),
        (lambda text: b"PAR1" + text.encode(), "is a Parquet file"),
        (
            lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
            "run git lfs pull",
        ),
        (lambda text: b"\n<!DOCTYPE html>\n<html></html>\n", "is a web page, not the file itself"),
    ],
)
def test_every_reader_names_what_is_no_utf8(reader: Any, kind: Callable[[str], bytes], says: str) -> None:
    path, content, read = reader
    # Of odd characters alone no encoding could be told.
    plain = content.decode().replace(BREAKS, " and then a good deal more of ordinary text ")
    path.write_bytes(kind(plain))
    with pytest.raises(DataError) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pointer_in_place_of_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mc.parquet"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(DataError, match="git lfs pull"):
        questions_of(path)


def test_files_with_marks_that_were_joined(tmp_path: Path) -> None:
    one, two = (as_lines({**OPEN, "id": number}).encode() for number in (1, 2))
    path = tmp_path / "open.jsonl"
    path.write_bytes(MARK + one + MARK + two)
    assert [question.id for question in questions_of(path)] == ["1", "2"]
    table_path = tmp_path / "mc.csv"
    table_path.write_bytes(
        MARK + b"id,question,A,B,answer\n7,Who?,Ann,Bo,B\n" + MARK + b"8,Who else?,Ann,Bo,A\n"
    )
    assert [question.id for question in questions_of(table_path)] == ["7", "8"]


# What can't be the same in all formats: a `\r` before a line end is dropped from files, a mark where a line begins too.
TEXTS = (
    st.text(
        st.characters(exclude_categories=("Cs",)) | st.sampled_from(BREAKS + "\n\r\t\"',;\\ é\ufeff"),
        max_size=12,
    )
    .map(lambda text: text.replace("\r\n", "\n").replace("\n\ufeff", "\n"))
    .filter(lambda text: "\r\n" not in text and "\n\ufeff" not in text)
)
FILLED = TEXTS.map(lambda text: f"x{text}x")


@st.composite
def rows_of(draw: Callable[[Any], Any]) -> list[dict[str, str]]:
    count = draw(st.integers(1, 4))
    rows = []
    for number in range(count):
        options = draw(st.lists(FILLED, min_size=3, max_size=3, unique_by=str.strip))
        rows.append(
            {
                "id": draw(st.sampled_from(["", f"id {number}", str(number + 100)])),
                "context": draw(TEXTS),
                "question": draw(FILLED),
                **dict(zip("ABC", options, strict=True)),
                "answer": draw(st.sampled_from("ABC")),
            }
        )
    return rows


def write_table(path: Path, rows: Sequence[dict[str, str]], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)


@given(rows=rows_of(), end=st.sampled_from(["\n", "\r\n"]), mark=st.sampled_from(["", "\ufeff"]))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_same_rows_are_the_same_questions_in_every_format(
    rows: list[dict[str, str]], end: str, mark: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows", numbered=True)
    as_hub = [
        {
            **{name: row[name] or None for name in ("id", "context", "question")},
            "choices": {"text": [row[name] for name in "ABC"], "label": list("ABC")},
            "answerKey": row["answer"],
        }
        for row in rows
    ]
    (folder / "a.jsonl").write_text(mark + as_lines(*rows).replace("\n", end), encoding="utf-8", newline="")
    (folder / "b.jsonl").write_text(
        json.dumps(rows[0]) + end + end + as_lines(*as_hub[1:]), newline="", encoding="utf-8"
    )
    (folder / "c.json").write_text(mark + json.dumps(rows, indent=2).replace("\n", end), newline="")
    write_table(folder / "d.csv", rows, ",")
    write_table(folder / "e.tsv", rows, "\t")
    pl.DataFrame(rows).write_parquet(folder / "f.parquet")
    pl.DataFrame(as_hub).write_parquet(folder / "g.parquet")
    found = {path.name: questions_of(path) for path in sorted(folder.iterdir())}
    first = found["a.jsonl"]
    assert len(first) == len(rows)
    assert found == dict.fromkeys(found, first)


@given(texts=st.lists(FILLED, min_size=1, max_size=5), end=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_calibration_text_comes_back_as_it_was(
    texts: list[str], end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("texts") / "x.jsonl"
    path.write_text(
        as_lines(*({"text": text} for text in texts)).replace("\n", end), encoding="utf-8", newline=""
    )
    assert passages(path) == texts
    array = path.with_suffix(".json")
    array.write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")
    assert passages(array) == texts


def test_calibration_null_is_no_passage_repeats_are_told_and_tables_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(as_lines({"text": None}, {"text": "one two"}, {"text": "one two"}, {"text": 1889}))
    found = read_calibration(TextOptions(source=f"file:{path}"))
    assert found.texts == ("one two", "one two", "1889")
    assert any("1 passage repeats another one" in warning for warning in found.warnings)
    path.write_text(as_lines({"content": "one"}))
    with pytest.raises(DataError, match='line 1: no field "text" with the passage; it has content'):
        passages(path)
    path.write_text(as_lines({"text": ["one"]}))
    with pytest.raises(DataError, match='line 1: "text" is not a text'):
        passages(path)
    old = tmp_path / "x.txt"
    old.write_text("one\r\rtwo\r", newline="")
    with pytest.raises(DataError, match=r"x\.txt has lines that end in \\r alone"):
        passages(old)
    rows = tmp_path / "x.csv"
    rows.write_text("text\none\n")
    with pytest.raises(DataError, match="is a table; write its passages as JSON lines"):
        passages(rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": 1,}', ": a comma before a closing bracket; remove it)"),
        ('{"a": [1, 2, ]}', "a comma before a closing bracket"),
        ("{'a': 1}", "put names and texts in double quotes"),
        ('{"a": 1} {"a": 2}', "another value after the first; write one object per line"),
        ('{"a": 1}\r{"a": 2}', "lines end in \\r alone; save the file with line endings \\n"),
        ('{"a": "one', "it ends early; write one whole object per line, and line ends within a text as \\n"),
        ("{", "it ends early"),
        ('{"a": 1, "b": 2, "a": 3}', "x, line 3 has the field 'a' twice with different values; keep one"),
        ('{"a": {"b": "x", "b": null}}', "has the field 'b' twice"),
        ('{"a": "\\ud800"}', "holds half a character"),
    ],
)
def test_faults_of_json_say_what_to_do(text: str, says: str) -> None:
    lines = [b'{"a": 0}\n', b"\n", text.encode() + b"\n"]
    with pytest.raises(DataError) as caught:
        list(json_lines(lines, "x"))
    assert says in str(caught.value)
    assert str(caught.value).startswith("data: x, line 3")


def test_json_is_read_as_it_is_meant() -> None:
    assert parse_json('{"a": 1, "a": 1}', "x") == {"a": 1}
    assert parse_json('"one\x0c\ttwo"', "x") == "one\x0c\ttwo"
    assert parse_json(r'"\ud83d\ude00"', "x") == "😀"
    assert parse_json(r'["\ud800"]', "x", mend=True) == ["?"]
    version, whole, huge, never = parse_json("[3.10, 7.0, 1e300, 1e400]", "x")
    assert [as_text(each) for each in (version, whole, huge, never)] == ["3.10", "7", "1e300", None]
    assert as_text(parse_json("[NaN]", "x")[0]) is None
    assert as_text(-0.0) == "0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'a,b\n"x\ny",1\n\n"open,2\n3,4\n',
            "the row that begins in line 5: a quote is opened and never closed",
        ),
        ('a,b\n\n"x" y,1\n', "the row that begins in line 3: text after a closing quote"),
        ("a,b\rc,d\r", "a \\r in the middle of a line"),
    ],
)
def test_faults_of_tables_name_the_line(text: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        table(text, "x.csv", delimiter=",")
    assert says in str(caught.value)


def test_a_cell_of_any_length_and_the_limit_of_others_stays() -> None:
    limit = csv.field_size_limit()
    long = "word " * 100_000
    assert table(f"a,b\n{long},1\n", "x.csv", delimiter=",")[1].cells == [long, "1"]
    assert csv.field_size_limit() == limit


def test_lists_in_cells() -> None:
    for text in ('["a", "b"]', "['a', 'b']", " ('a', 'b')"):
        assert unpacked(text, "x") in (["a", "b"], text)
    assert unpacked("{'text': ['a'], 'label': None}", "x") == {"text": ["a"], "label": None}
    # Python would read one text.
    with pytest.raises(DataError, match="no commas between its texts, as NumPy writes lists"):
        unpacked("['a' 'b']", "x")
    with pytest.raises(DataError, match="is not JSON"):
        unpacked("[a]", "x")
    assert unpacked("Ann [sic]", "x") == "Ann [sic]"


def test_marks_within_a_line_are_characters() -> None:
    assert decoded(MARK + "a\ufeffb\r\n\ufeffc\r".encode(), "x") == "a\ufeffb\nc\r"
