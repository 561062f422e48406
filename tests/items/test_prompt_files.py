"""Files of prompts, good and bad, and the shipped prompts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anomia.errors import DataError
from anomia.grade import containment
from anomia.items import Question, build_items, read_questions


def read(path: Path) -> list[Question]:
    return [question for found in read_questions(f"prompts:{path}").values() for question in found]


def jsonl(folder: Path, *rows: Any) -> Path:
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


USER, MODEL = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."}


@pytest.mark.parametrize(
    ("row", "prompt", "answers"),
    [
        ("Why?  \n", "Why?  \n", ()),
        ({"prompt": " Why? "}, " Why? ", ()),
        ({"text": "Why?", "output": "So."}, "Why?", ("So.",)),
        ({"instruction": "Add", "input": "2 and 3", "output": "5"}, "Add\n\n2 and 3", ("5",)),
        ({"instruction": "Add", "input": ""}, "Add", ()),
        ({"prompt": "Why?", "answers": ["a", "b", "…"]}, "Why?", ("a", "b")),
        ({"messages": [USER]}, "Who?", ()),
        ({"messages": [USER, MODEL]}, "Who?", ("Ann.",)),
        ({"messages": [USER, MODEL], "reference": "Bo"}, "Who?", ("Bo",)),
        ({"prompt": [USER], "completion": [MODEL]}, "Who?", ("Ann.",)),
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ann."}]}, "Who?", ("Ann.",)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Who"}, {"type": "text", "text": "?"}]}]}, "Who?", ()),
        ({"prompt": "long ago", "messages": [USER]}, "Who?", ()),
    ],
)  # fmt: skip
def test_a_prompt_is_read_as_it_is(tmp_path: Path, row: Any, prompt: str, answers: tuple[str, ...]) -> None:
    (found,) = read(jsonl(tmp_path, row))
    assert (found.question, found.answers, found.messages) == (prompt, answers, ())
    assert (found.id, found.language, found.context, found.as_is) == ("1", "english", "", True)


def test_a_conversation_keeps_its_messages(tmp_path: Path) -> None:
    system = {"role": "System", "content": "Be brief."}
    row = {"messages": [system, USER, MODEL, USER, MODEL], "id": 7, "language": "sw", "category": "chat"}
    (found,) = read(jsonl(tmp_path, row))
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "user"]
    assert found.question == "system: Be brief.\n\nuser: Who?\n\nassistant: Ann.\n\nuser: Who?"
    assert (found.answers, found.id, found.language, found.kind) == (("Ann.",), "7", "swahili", "chat")


def test_lines_and_blocks_of_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.sw.txt"
    path.write_bytes(b"Moja?\r\n\r\n  Mbili?\n")
    assert [(q.id, q.question, q.language) for q in read(path)] == [
        ("1", "Moja?", "swahili"), ("2", "  Mbili?", "swahili"),
    ]  # fmt: skip
    path.write_text("First\nline two\n---\n\n---\nSecond\n\nwith a gap\n")
    assert [q.question for q in read(path)] == ["First\nline two", "Second\n\nwith a gap"]


def test_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps(["Why?", {"prompt": "How?"}]))
    assert [q.question for q in read(path)] == ["Why?", "How?"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}, {"query": "b"}], r"own.jsonl, line 2 has no prompt; it has query; write \{\"prompt\""),
        ([3], "line 1 is neither a text nor an object"),
        ([{"prompt": "  "}], "line 1 has no prompt"),
        ([{"prompt": {"a": 1}}], "'prompt' is not a text"),
        ([{"messages": []}], "'messages' is empty"),
        ([{"messages": [MODEL]}], "holds no question of a user"),
        ([{"messages": ["Who?"]}], "message 1 is not an object"),
        ([{"messages": [{"role": "tool", "content": "x"}]}], "message 1 has the role 'tool'"),
        ([{"messages": [{"role": "user", "content": ""}]}], "message 1 has no text"),
        ([{"messages": [USER, {"role": "system", "content": "x"}, USER]}], "message 2: a system message comes first"),
        ([{"messages": [{"role": "user", "content": [{"type": "image"}]}]}], "holds more than text"),
        ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": 1}], "two questions have the id '1'"),
        ([], "is empty; it needs at least one prompt"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(jsonl(tmp_path, *rows))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jsonl does not exist; give a file that ends in \.jsonl"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "a.csv").write_text("prompt\nWhy?\n")
    with pytest.raises(DataError, match=r"no known file ending; known: \.jsonl, \.json, \.txt"):
        read(tmp_path / "a.csv")


def test_a_subset_is_drawn_and_no_prompt_is_held_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *({"prompt": f"Number {n}?"} for n in range(9)))
    whole, some = (
        build_items(read_questions(f"prompts:{path}"), dataset="prompts", limit=limit, seed=3)["english"]
        for limit in (None, 4)
    )
    assert len(whole.items) == 9
    assert whole.exemplar is None
    assert some.items == whole.items[:4]


def test_my_prompts_are_not_burmese(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("Why?\n")
    assert [q.language for q in read(tmp_path / "my.txt")] == ["english"]


def test_sixty_prompts_are_shipped() -> None:
    found = [question for each in read_questions("prompts").values() for question in each]
    assert len(found) == len({q.question for q in found}) == len({q.id for q in found}) == 60
    assert Counter(q.language for q in found) >= Counter(english=20, russian=8, swahili=8)
    assert len({q.language for q in found}) == 7
    assert {q.kind for q in found} == {
        "explanation", "list", "json", "code", "arithmetic", "translation", "dialogue", "summary", "story",
    }  # fmt: skip
    # A model that repeats its prompt has not answered it.
    assert not [q.id for q in found if containment(q.question, q.answers)]
