"""Prompts of any kind, which need no right answer: one's own, or 60 that were written for this project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from anomia.errors import DataError, nearest
from anomia.grade import normalize
from anomia.items.data_set import DataSet, as_path
from anomia.items.entry import (
    IDS,
    by_language,
    field_names,
    file_language,
    first_given,
    lowered,
    read_texts,
    text_of,
)
from anomia.items.item import Message, Question
from anomia.items.languages import language_name
from anomia.probes import CONTINUATION
from anomia.text_files import PlacedValue, as_text, is_absent, json_rows, read_bytes, read_text

ENDINGS = (".jsonl", ".json", ".txt")
# Where a row has several of these, the first counts.
CONVERSATIONS = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "instruction", "text")
REFERENCES = ("reference", "references", "answers", "answer", "response", "completion", "output")
# As ShareGPT's files call the roles.
ROLES = {
    "system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant",
    "model": "assistant", "bot": "assistant", "developer": "system",
}  # fmt: skip
_EXAMPLE = '{"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'


def _read(argument: str, wanted: Sequence[str] | None) -> dict[str, list[Question]]:
    if not argument:
        shipped = resources.files("anomia.items") / "prompts.jsonl"
        return by_language(_questions(json_rows(shipped.read_bytes(), "prompts.jsonl"), "english"))
    path = as_path(argument)
    if not path.is_file():
        raise DataError(f"data: {path} does not exist; give a file that ends in {', '.join(ENDINGS)}")
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"data: {path} has no known file ending; known: {', '.join(ENDINGS)}")
    rows = _blocks(path) if path.suffix.lower() == ".txt" else json_rows(read_bytes(path), str(path))
    found = by_language(_questions(rows, file_language(path) or "english"))
    if not found:
        raise DataError(f"data: {path} is empty; it needs at least one prompt")
    return found


def _blocks(path: Path) -> Iterator[PlacedValue]:
    """The prompts of a text file: its lines or, if some lines are `---`, the blocks between those; blank ones don't
    count.
    """
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    if "---" not in (line.strip() for line in lines):
        kept = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    else:
        kept, first = [], 0
        for at in [*(n for n, line in enumerate(lines) if line.strip() == "---"), len(lines)]:
            block = "\n".join(lines[first:at]).strip("\n")
            if block.strip():
                kept.append((first + 1, block))
            first = at + 1
    for count, (number, text) in enumerate(kept, start=1):
        yield PlacedValue(f"{path}, line {number}", count, text)


def _questions(rows: Iterator[PlacedValue], language: str) -> Iterator[Question]:
    for place, number, value in rows:
        if isinstance(value, str):
            value = {"prompt": value}
        if not isinstance(value, dict):
            raise DataError(f"data: {place} is neither a text nor an object; write {_EXAMPLE}")
        yield _question(lowered(value, place), place, number, language, tuple(value))


def _question(
    row: Mapping[str, Any], place: str, number: int, language: str, fields: Sequence[str]
) -> Question:
    name, value = first_given(row, (*CONVERSATIONS, *PROMPTS))
    if not name:
        raise DataError(f"data: {place} has no prompt; it has {field_names(fields)}; write {_EXAMPLE}")
    answers: tuple[str, ...] = ()
    if isinstance(value, list):
        messages = _messages(value, f"{place}: {name!r}")
        if messages[-1].role == "assistant":
            answers, messages = (messages[-1].content.strip(),), messages[:-1]
    else:
        messages = [Message("user", _prompt(row, name, value, place))]
    if not messages or messages[-1].role != "user":
        raise DataError(f"data: {place}: {name!r} holds no question of a user to answer")
    answers = _references(row, place) or answers
    alone = len(messages) == 1
    return Question(
        id=text_of(row, first_given(row, IDS)[0], place) or str(number),
        language=language_name(text_of(row, "language", place) or language),
        context="",
        question=messages[0].content if alone else as_one_text(messages),
        answers=tuple(answer for answer in answers if normalize(answer)),
        as_is=True,
        messages=() if alone else tuple(messages),
        kind=text_of(row, first_given(row, ("kind", "category"))[0], place),
    )


def _prompt(row: Mapping[str, Any], name: str, value: Any, place: str) -> str:
    """A prompt as it is, with the input of an instruction below it."""
    texts = [as_text(value)]
    if name == "instruction" and not is_absent(row.get("input")):
        texts.append(as_text(row["input"]))
    if any(text is None for text in texts):
        raise DataError(
            f"data: {place}: {name!r} is not a text; put it into quotes, or give a list of messages"
        )
    prompt = "\n\n".join(text for text in texts if text)
    if not prompt.strip():
        raise DataError(f"data: {place}: {name!r} is blank; write a prompt")
    return prompt


def _references(row: Mapping[str, Any], place: str) -> tuple[str, ...]:
    name, value = first_given(row, REFERENCES)
    if isinstance(value, list) and any(isinstance(each, dict) and "content" in each for each in value):
        return tuple(message.content.strip() for message in _messages(value, f"{place}: {name!r}")[-1:])
    return read_texts(value, name, place)


def _messages(value: Sequence[Any], place: str) -> list[Message]:
    found = []
    for number, each in enumerate(value, start=1):
        here = f"{place}, message {number}"
        if not isinstance(each, dict):
            raise DataError(f'data: {here} is not an object; write {{"role": "user", "content": "…"}}')
        role, content = (
            each.get(one, each.get(other)) for one, other in (("role", "from"), ("content", "value"))
        )
        if str(role).lower() not in ROLES:
            known = nearest(str(role).lower(), ("system", "user", "assistant"))
            raise DataError(f"data: {here} has the role {str(role)[:40]!r}; {known}")
        if isinstance(content, list):
            content = _joined(content, here)
        text = as_text(content)
        if text is None or not text.strip():
            raise DataError(f"data: {here} has no text ('content')")
        found.append(Message(ROLES[str(role).lower()], text))
    if not found:
        raise DataError(f"data: {place} is empty; give at least one message")
    late = next((n for n, message in enumerate(found) if n and message.role == "system"), None)
    if late is not None:
        raise DataError(f"data: {place}, message {late + 1}: a system message comes first; move it")
    return found


def _joined(parts: Sequence[Any], place: str) -> str:
    """The text of a content in parts."""
    given = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise DataError(f"data: {place} holds more than text, such as an image; give text alone")
    return "".join(texts)


def as_one_text(messages: Sequence[Message]) -> str:
    """A conversation for people to read.

    >>> as_one_text([Message("system", "Be brief."), Message("user", "Hi")])
    'system: Be brief.\\n\\nuser: Hi'
    """
    return "\n\n".join(f"{role}: {content}" for role, content in messages)


SET = DataSet(
    name="prompts",
    title="prompts",
    read=_read,
    path="optional",
    endings=ENDINGS,
    holds="prompts, with or without answers",
    probes=(CONTINUATION,),
    licence="CC0 1.0",
)
