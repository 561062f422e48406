"""Tasks from rows with the field names of their data sets on the hub: JSON lines, Parquet, and `TASK:hub`.

Names and types are those of the data set cards; the texts are our own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest

from anomia.items import build_items
from anomia.items.item import Question
from anomia.items.readers import read_questions
from anomia.items.sets import SETS

_NONE: dict[str, Any] = dict.fromkeys(
    (
        "num_highlights", "relation", "num_words", "num_placeholders", "prompt_to_repeat", "num_bullets",
        "section_spliter", "num_sections", "capital_relation", "capital_frequency", "keywords", "num_paragraphs",
        "language", "let_relation", "letter", "let_frequency", "end_phrase", "forbidden_words", "keyword",
        "frequency", "num_sentences", "postscript_marker", "first_word", "nth_paragraph",
    )
)  # fmt: skip


class Rows(NamedTuple):
    """Rows of one data set. place: its repository, configuration and split. first: what the first row is read as."""

    task: str
    rows: list[dict[str, Any]]
    first: dict[str, Any]
    place: tuple[str, str, str] | None = None


def _bfcl(number: int, name: str, argument: str, kind: str, value: Any) -> dict[str, Any]:
    return {
        "id": f"simple_{number}",
        "question": [[{"role": "user", "content": f"Please do {name} with {value}."}]],
        "function": [
            {
                "name": name,
                "description": f"Does {name}.",
                "parameters": {
                    "type": "dict",
                    "properties": {argument: {"type": kind, "description": "What to take."}},
                    "required": [argument],
                },
            }
        ],
        "ground_truth": [{name: {argument: [value]}}],
    }


HUMAN_EVAL = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f'def add_{n}(value):\n    """Add {n} to a number.\n    >>> add_{n}(1)\n    {n + 1}\n    """\n',
        "canonical_solution": f"    return value + {n}\n",
        "test": f"\n\nMETADATA = {{}}\n\n\ndef check(candidate):\n    assert candidate(1) == {n + 1}\n    assert candidate(7) == {n + 7}\n",
        "entry_point": f"add_{n}",
    }
    for n in range(1, 5)
]
MBPP = [
    {
        "task_id": 600 + n,
        "text": f"Write a function to multiply a number by {n}.",
        "code": f"def times_{n}(value):\r\n  return value * {n}",
        "test_list": [f"assert times_{n}(1) == {n}", f"assert times_{n}(5) == {5 * n}"],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
    for n in range(2, 6)
]
SANITIZED = [
    {
        "source_file": "Benchmark Questions Verification V2.ipynb",
        "task_id": row["task_id"],
        "prompt": row["text"],
        "code": row["code"].replace("\r", ""),
        "test_imports": [],
        "test_list": row["test_list"],
    }
    for row in MBPP
]
DATA: dict[str, Rows] = {
    "gsm8k": Rows(
        "math",
        [
            {
                "question": f"Ana has {n} boxes with 1,000 pens each. How many pens has she?",
                "answer": f"She has {n} * 1000 = <<{n}*1000={n}000>>{n}000 pens.\n#### {n},000",
            }
            for n in range(2, 7)
        ],
        {"answers": ("2,000",), "language": "english"},
        ("openai/gsm8k", "main", "test"),
    ),
    "humaneval": Rows(
        "code",
        HUMAN_EVAL,
        {"id": "HumanEval/1", "answers": ("   return value + 1",)},
        ("openai/openai_humaneval", "openai_humaneval", "test"),
    ),
    "mbpp": Rows("code", MBPP, {"id": "602", "answers": ("def times_2(value):\n  return value * 2",)}),
    "mbpp-sanitized": Rows("code", SANITIZED, {"id": "602"}),
    "squad_v2": Rows(
        "abstention",
        [
            {
                "id": f"56{n}",
                "title": "Rivers",
                "context": f"The river Aro is {n} km long. It rises near Belu and passes Cerid and Domas.",
                "question": "How wide is the Aro?" if n % 2 else "Where does the Aro rise?",
                "answers": {"text": [], "answer_start": []}
                if n % 2
                else {"text": ["near Belu", "Belu"], "answer_start": [34, 39]},
            }
            for n in range(1, 9)
        ],
        {"id": "561", "answers": ("unanswerable",)},
        ("rajpurkar/squad_v2", "squad_v2", "validation"),
    ),
    "ifeval": Rows(
        "instructions",
        [
            {
                "key": 1000 + n,
                "prompt": f"Write about town {n} in your own words. Do not use any commas. Answer with at least {n} sentences.",
                "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_sentences"],
                "kwargs": [_NONE, {**_NONE, "relation": "at least", "num_sentences": n}],
            }
            for n in range(2, 7)
        ],
        {"id": "1002"},
        ("google/IFEval", "default", "train"),
    ),
    "bfcl": Rows(
        "tools",
        [
            _bfcl(0, "get_weather", "city", "string", "Oslo"),
            _bfcl(1, "math.factorial", "number", "integer", 5),
            _bfcl(2, "set_volume", "level", "float", 0.5),
            _bfcl(3, "play", "genre", "string", "jazz"),
        ],
        {"id": "simple_0", "question": "Please do get_weather with Oslo."},
    ),
    "xlam": Rows(
        "tools",
        [
            {
                "id": n,
                "query": f"Find {n} flats in Oslo.",
                "answers": json.dumps([{"name": "find", "arguments": {"city": "Oslo", "count": n}}]),
                "tools": json.dumps(
                    [
                        {
                            "name": "find",
                            "description": "Finds flats.",
                            "parameters": {
                                "city": {"description": "The city.", "type": "str", "default": ""},
                                "count": {"description": "How many.", "type": "int", "default": 1},
                            },
                        }
                    ]
                ),
            }
            for n in range(2, 6)
        ],
        {"id": "2", "question": "Find 2 flats in Oslo."},
    ),
    "wmt14": Rows(
        "translation",
        [
            {"translation": {"de": f"Anna wohnt seit {n} Jahren in Bonn.", "en": f"Anna has lived in Bonn for {n} years."}}
            for n in range(3, 9)
        ],
        {
            "context": "Anna wohnt seit 3 Jahren in Bonn.",
            "answers": ("Anna has lived in Bonn for 3 years.",),
            "language": "english",
            "question": "Translation into English",
        },
        ("wmt/wmt14", "de-en", "test"),
    ),
    "flores": Rows(
        "translation",
        [
            {
                "id": n,
                "URL": "https://example.org",
                "domain": "wikinews",
                "topic": "travel",
                "has_image": 0,
                "has_hyperlink": 0,
                "sentence_eng_Latn": f"Anna bought {n} red apples in Bonn.",
                "sentence_fra_Latn": f"Anna a acheté {n} pommes rouges à Bonn.",
            }
            for n in range(3, 9)
        ],
        {
            "context": "Anna bought 3 red apples in Bonn.",
            "language": "french",
            "question": "Translation into French",
        },
    ),
    "cnn_dailymail": Rows(
        "summaries",
        [
            {
                "article": f"BONN (CNN) -- Anna Berg opened {n} shops in Bonn on Monday. The mayor did not come.",
                "highlights": f"Anna Berg opened {n} shops in Bonn .\nThe mayor did not come .",
                "id": f"a{n}",
            }
            for n in range(3, 9)
        ],
        {"id": "a3", "answers": ("Anna Berg opened 3 shops in Bonn .\nThe mayor did not come .",)},
        ("abisee/cnn_dailymail", "3.0.0", "test"),
    ),
    "xsum": Rows(
        "summaries",
        [
            {
                "document": f"Anna Berg opened {n} shops in Bonn on Monday.\nThe mayor did not come.",
                "summary": f"Anna Berg has opened {n} shops in Bonn, but the mayor did not come.",
                "id": f"{n}",
            }
            for n in range(3, 9)
        ],
        {"id": "3", "answers": ("Anna Berg has opened 3 shops in Bonn, but the mayor did not come.",)},
    ),
}  # fmt: skip


def as_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    file = path.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    file = path.with_suffix(".parquet")
    # As `datasets` writes them: a column has one type, so objects get the keys of all rows, with nulls.
    datasets.Dataset.from_list(rows).to_parquet(str(file))
    return file


def read(data: str) -> list[Question]:
    return [question for found in read_questions(data).values() for question in found]


@pytest.mark.parametrize("write", [as_lines, as_parquet])
@pytest.mark.parametrize("name", DATA)
def test_rows_are_read_by_the_names_of_their_data_set(
    name: str, write: Callable[[Path, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    task, rows, first, _ = DATA[name]
    data = f"{task}:{write(tmp_path / 'rows', rows)}"
    found = read(data)
    assert len(found) == len(rows)
    assert {key: getattr(found[0], key) for key in first} == first
    grader = SETS[task].task
    assert grader is not None
    # The hub's own answer is right, and wrong options are wrong by the same grader.
    for question in found:
        if not question.distractors and task != "abstention":
            assert grader.grade(question.gold, question).score == 1, question.gold
    for items in build_items(read_questions(data), dataset=data, limit=None, seed=1).values():
        assert items.items
        for item in items.items:
            options = item.options["standard"]
            # A short program has few changes that fail its tests.
            assert 4 >= len(set(options)) == len(options) >= 3
            others = [text for text in options if text != item.question.gold]
            graded = [grader.grade(text, item.question) for text in others]
            assert all(each.score < 1 for each in graded)
            assert not any(each.correct for each in graded)


def test_both_files_hold_the_same_questions(tmp_path: Path) -> None:
    for name, (task, rows, _, _) in DATA.items():
        one, other = (read(f"{task}:{write(tmp_path / name, rows)}") for write in (as_lines, as_parquet))
        assert one == other, name


@pytest.mark.parametrize("name", [name for name, each in DATA.items() if each.place])
def test_the_hub_is_read_from_the_place_of_the_data_set(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rows, _, place = DATA[name]
    assert place is not None
    repository, config, split = place
    folder = tmp_path / repository
    folder.mkdir(parents=True)
    as_parquet(folder / "part", rows)
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n    path: part.parquet\n---\n"
    )
    real = datasets.load_dataset

    def load(asked: str, config: str | None = None, **more: Any) -> Any:
        return real(str(tmp_path / asked), config, cache_dir=str(tmp_path / "cache"), **more)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read(f"{task}:hub") == read(f"{task}:{as_lines(tmp_path / 'rows', rows)}")
