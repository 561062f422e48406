"""Questions from files: they are items with options, or there is one message and no run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from anomia.errors import AnomiaError
from anomia.items import build_items, read_questions
from anomia.records import ITEM_SCHEMA, item_rows, read_rows, write_rows
from tests.conftest import entry
from tests.fuzz.conftest import call, fuzz, refused, whole_program
from tests.fuzz.mutations import NASTY_TEXTS, VALUES, as_json, damaged, mutated

LINES = [
    entry(number, language, **({"distractors": ["one", "two", "three"]} if number == 2 else {}))
    for language in ("english", "thai")
    for number in range(6)
]
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": line["context"],
                    "qas": [
                        {
                            "id": line["id"],
                            "question": line["question"],
                            "answers": [{"text": text, "answer_start": 0} for text in line["answers"]],
                        }
                    ],
                }
                for line in LINES[:6]
            ],
        }
    ],
}


def lines(entries: Any) -> bytes:
    return b"\n".join(as_json(line) for line in entries) if isinstance(entries, list) else as_json(entries)


def check(data: str, place: Path) -> None:
    out = place / "run"
    try:
        questions = read_questions(data)
        sets = build_items(questions, dataset=data, limit=4, seed=1)
    except AnomiaError as error:
        assert str(error).startswith("data: ")  # noqa: PT017
        if whole_program(data.encode("utf-8", "replace") + str(error).encode("utf-8", "replace")):
            refused(
                call("run", "--base", "./nowhere", "--arm", "magnitude:0.5", "--data", data, "--out", out)
            )
        assert not out.exists()
        return
    rows = [row for items in sets.values() for row in item_rows(items)]
    # What was accepted can be stored, and comes back as it was.
    write_rows(rows, place / "items.parquet", ITEM_SCHEMA)
    assert read_rows(place / "items.parquet").to_dicts() == rows


@given(content=damaged(lines(LINES)))
@example(content=b"1" * 5000)
@example(content=b"[" * 100_000)
@example(content=b'{"id": ' + b"1" * 5000 + b"}")
@example(content=b"\xef\xbb\xbf" + lines(LINES))
@example(content=lines(LINES).replace(b"\n", b"\r\n"))
@example(content=b"")
@fuzz()
def test_json_lines_of_any_bytes(content: bytes, place: Path) -> None:
    (place / "questions.jsonl").write_bytes(content)
    check(f"jsonl:{place / 'questions.jsonl'}", place)


@given(entries=mutated(LINES))
@example(entries=[{**line, "question": "who \ud800?"} for line in LINES])
@example(entries=[{**line, "context": "\udfff"} for line in LINES])
@example(entries=[{**line, "language": "\ud800"} for line in LINES])
@fuzz()
def test_json_lines_with_faults(entries: Any, place: Path) -> None:
    (place / "questions.jsonl").write_bytes(lines(entries))
    check(f"jsonl:{place / 'questions.jsonl'}", place)


@given(
    entries=st.lists(
        st.fixed_dictionaries(
            dict.fromkeys(("id", "language", "question", "answers"), VALUES | NASTY_TEXTS),
            optional=dict.fromkeys(("context", "distractors", "passage_distractors"), VALUES),
        ),
        max_size=6,
    )
)
@fuzz()
def test_json_lines_of_any_values(entries: Any, place: Path) -> None:
    (place / "questions.jsonl").write_bytes(lines(entries))
    check(f"jsonl:{place / 'questions.jsonl'}", place)


@given(content=damaged(as_json(SQUAD)))
@example(content=b"1" * 5000)
@example(content=b"[" * 100_000)
@example(content=b"[]")
@fuzz()
def test_squad_of_any_bytes(content: bytes, place: Path) -> None:
    (place / "squad.en.json").write_bytes(content)
    check(f"squad:{place / 'squad.en.json'}", place)


@given(value=mutated(SQUAD))
@fuzz()
def test_squad_with_faults(value: Any, place: Path) -> None:
    (place / "squad.en.json").write_text(json.dumps(value))
    check(f"squad:{place / 'squad.en.json'}", place)


CHOICES = [
    {"id": "a", "question": "Q?", "options": ["one", "two", "three", "four"], "answer": "two", "language": "en"},
    {"question": "R?", "options": {"text": ["five", "six", "seven", "eight"], "label": ["A", "B", "C", "D"]},
     "answerKey": "six"},
    *({"question": f"{n}?", "choices": ["red", "green", f"blue{n}", "grey"], "answer": "grey"} for n in range(6)),
    {"ctx": "S", "endings": ["nine", "ten"], "label": "ten"},
    {"question": "T?", "mc1_targets": {"choices": ["yes", "no"], "labels": [0, 1]}},
    {"question": "U?", "correct_answer": "salt", "distractor1": "iron", "distractor2": 3, "support": "Text."},
]  # fmt: skip
INDEXED = [{"Question": f"{n}?", "choices": [n, "red", "green", f"blue{n}"], "cop": n % 4} for n in range(8)]


@given(
    entries=mutated(CHOICES) | mutated(INDEXED),
    answer=st.sampled_from(["", ",answer=index1", ",answer=text", ",answer=x"]),
)
@example(entries=CHOICES, answer="")
@example(entries=INDEXED, answer="")
@fuzz()
def test_multiple_choice_with_faults(entries: Any, answer: str, place: Path) -> None:
    (place / "exam.jsonl").write_bytes(lines(entries))
    check(f"mc:{place / 'exam.jsonl'}{answer}", place)


def test_the_choices_that_are_mutated_are_sound(tmp_path: Path) -> None:
    for entries in (CHOICES, INDEXED):
        (tmp_path / "exam.jsonl").write_bytes(lines(entries))
        assert sum(map(len, read_questions(f"mc:{tmp_path / 'exam.jsonl'}").values())) == len(entries)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    rows = [{"question": f"{n}?", "choices": ["red", "green", f"blue{n}"], "answer": n % 3} for n in range(6)]
    pl.DataFrame(rows).write_parquet(buffer)
    return buffer.getvalue()


@given(content=damaged(_parquet()))
@fuzz()
def test_multiple_choice_of_damaged_parquet(content: bytes, place: Path) -> None:
    (place / "exam.parquet").write_bytes(content)
    check(f"mc:{place / 'exam.parquet'}", place)


@given(content=damaged(lines(CHOICES)))
@fuzz()
def test_multiple_choice_of_any_bytes(content: bytes, place: Path) -> None:
    for name in ("exam.jsonl", "exam.csv", "exam.tsv", "exam.json"):
        (place / name).write_bytes(content)
        check(f"mc:{place / name}", place)
