"""Every message of an error that the program raises on purpose, read from its source.

As a hook of MkDocs it writes the list into `docs/troubleshooting.md` when the site is built.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src" / "anomia"
MARK = "<!-- every message -->"

_KINDS = {"run": "RunError", "model": "ModelError", "data": "DataError", "study": "StudyError"}
_WORDED = re.compile(r"(run|model|data|study): ")


class Message(NamedTuple):
    """A message with `…` for what differs from case to case, and the error that carries it."""

    error: str
    text: str
    file: str


def messages(source: Path = SOURCE) -> list[Message]:
    """All messages, by file and line."""
    found = []
    for file in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            error, value = _raised(node)
            text = re.sub(r"…(\s*…)+", "…", _text(value)) if value is not None else ""
            if error.endswith("Error") and error != "MissingExtraError" and re.search(r"\w{3}", text):
                found.append(Message(error, text, file.relative_to(source).as_posix()))
    return found


def _raised(node: ast.AST) -> tuple[str, ast.expr | None]:
    """The error and the text of a `raise`, or of a function that words a message for one."""
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
    """Puts the list in place of its mark."""
    if MARK not in markdown:
        return markdown
    rows = sorted(
        {
            (message.error, " ".join(message.text.split()))
            for message in messages()
            if message.error != "ValueError" and not _for_callers(message)
        }
    )
    table = ["| error | message |", "|---|---|"]
    table += [f"| `{error}` | {_cell(text)} |" for error, text in rows]
    return markdown.replace(MARK, "\n".join(table))


def _for_callers(message: Message) -> bool:
    """Whether only a caller of the parts meets it: the figures of a run are always of matching items."""
    return message.file.startswith("measure") and message.error == "DataError"


def _cell(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return re.sub(r"([\\`*_\[\]])", r"\\\1", escaped)
