"""Collect the messages of all deliberate errors from the source code.

As an MkDocs hook, it inserts the list into `docs/troubleshooting.md` when the site is built.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src" / "anomia"
MARK = "<!-- every message -->"

ERRORS = {"AnomiaError", "StudyError", "DataError", "ModelError", "CompressionError", "RunError"}
_KINDS = {"run": "RunError", "model": "ModelError", "data": "DataError", "study": "StudyError"}
_WORDED = re.compile(r"(run|model|data|study): ")


class Message(NamedTuple):
    """A message, with `…` for variable parts, and its error class and file."""

    error: str
    text: str
    file: str


def messages(source: Path = SOURCE) -> list[Message]:
    """All messages, by file and line."""
    found = []
    for file in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            error, value = _raised(node)
            said = [_text(value)] if value is not None else []
            if isinstance(node, ast.FunctionDef):
                error, said = "ModelError", _with_remedies(node)
            for text in (re.sub(r"…(\s*…)+", "…", each) for each in said):
                if error.endswith("Error") and error != "MissingExtraError" and re.search(r"\w{3}", text):
                    found.append(Message(error, text, file.relative_to(source).as_posix()))
    return found


def _with_remedies(function: ast.FunctionDef) -> list[str]:
    """The messages of a function whose message about a model ends in one of several remedies, one per remedy."""
    ends = [node for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
    texts = [_text(node.value) for node in ends if node.value is not None]
    remedies = [
        node.value.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and [target.id for target in node.targets if isinstance(target, ast.Name)] == ["remedy"]
    ]
    return [
        f"{text.removesuffix('…')}{remedy}"
        for text in texts
        if text.startswith("model: ") and text.endswith("…")
        for remedy in remedies
    ]


def _raised(node: ast.AST) -> tuple[str, ast.expr | None]:
    """The error class and message of a `raise`, or of a `return` in a function that words a message."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        return (node.exc.func.id if isinstance(node.exc.func, ast.Name) else "", node.exc.args[0])
    if isinstance(node, ast.Return) and node.value is not None:
        kind = _WORDED.match(_text(node.value))
        return (_KINDS[kind[1]], node.value) if kind else ("", None)
    return "", None


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.IfExp):
        return _text(node.value)
    if isinstance(node, ast.IfExp):
        return _text(node.body)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the mark in a page by the list of messages."""
    if MARK not in markdown:
        return markdown
    texts = {" ".join(message.text.split()) for message in messages() if _is_told(message)}
    # Sort by the first word, because some messages start with a variable part.
    rows = sorted(texts, key=lambda text: (re.sub(r"^\W+", "", text).lower(), text))
    return markdown.replace(MARK, "\n".join(f"- {_escaped(text)}" for text in rows))


def _is_told(message: Message) -> bool:
    """Whether a user can see the message. Other errors are caught internally, or are for callers of the library."""
    if message.error == "ValueError":
        return message.file == "study.py"
    return message.error in ERRORS and not (
        message.file.startswith("measure") and message.error == "DataError"
    )


def _escaped(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return re.sub(r"([\\`*_\[\]])", r"\\\1", escaped)
