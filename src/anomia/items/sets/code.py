"""Programs with tests: HumanEval's rows (`prompt`, `canonical_solution`, `test`, `entry_point`) and MBPP's (`text` or
`prompt`, `code`, `test_list`).

Right means that all tests pass (pass@1 of the greedy answer), in the sandbox of `anomia.items.sandbox`; a study must
allow it. Wrong options are mutants: the right solution with one token changed, kept if it fails a test.
"""

from __future__ import annotations

import ast
import io
import json
import random
import re
import tokenize
from collections.abc import Iterator
from typing import Any

from anomia.errors import DataError
from anomia.grade import Posed, Task, TaskGrade
from anomia.items.data_set import DataSet
from anomia.items.item import Question
from anomia.items.sandbox import passes
from anomia.items.task_rows import SUFFIXES, HubPlace, TaskRow, draw_for, first_wrong, packed, task_reader

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_CHANGES: dict[str, tuple[str, ...]] = {
    "<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",),
    "+": ("-", "*"), "-": ("+",), "*": ("+", "**"), "/": ("//", "*"), "//": ("/", "%"), "%": ("//", "*"), "**": ("*",),
    "+=": ("-=",), "-=": ("+=",), "*=": ("+=",), "and": ("or",), "or": ("and",), "True": ("False",), "False": ("True",),
    "not": ("",), "min": ("max",), "max": ("min",), "any": ("all",), "all": ("any",), "sorted": ("list",),
    "sum": ("len",), "break": ("continue",), "continue": ("break",), "lower": ("upper",), "upper": ("lower",),
    "append": ("remove",), "in": ("not in",), "is": ("is not",), "abs": ("int",), "union": ("intersection",),
    "keys": ("values",), "reversed": ("list",), "range": ("list",), "len": ("max",), "set": ("list",),
    "startswith": ("endswith",),
}  # fmt: skip
_MOST_MUTANTS = 16


def program_of(output: str, question: Posed) -> str | None:
    """The function that an output completes or defines, without what a model writes after it; None if none compiles."""
    prompt = json.loads(question.target)["prompt"]
    blocks = _FENCE.findall(output)
    for text in (*blocks, output):
        if prompt:
            # HumanEval asks for the rest of a function; chat models write it again from the start.
            whole = _compiling(_parts(f"{_imports(prompt)}\n{text}")) if _defines(text, question) else None
            if whole:
                return whole
            first, _, rest = text.lstrip("\n").partition("\n")
            # As it is, or with the first line's indentation, which tokenizers and options may have lost.
            starts = (first, f"    {first.lstrip()}")
            wholes = (
                f"{prompt.rstrip()}\n{start}\n{_body(rest)}" for start in starts if start.startswith(" ")
            )
            if found := _compiling(wholes):
                return found
        elif found := _compiling(_parts(text)):
            return found
    return None


def _defines(text: str, question: Posed) -> bool:
    name = json.loads(question.target)["entry_point"]
    return bool(re.search(rf"^(?:async )?def {re.escape(name)}\b", text, re.MULTILINE))


def _imports(prompt: str) -> str:
    """What a prompt has before its function: imports, and helpers that it calls."""
    head, found, _ = prompt.rpartition("\ndef ")
    return head if found else ""


def _body(text: str) -> str:
    """The lines that belong to a function's body: up to the first that isn't indented."""
    kept = []
    for line in text.split("\n"):
        if line.strip() and not line.startswith((" ", "\t", ")", "]", "}", "#")):
            break
        kept.append(line)
    return "\n".join(kept)


def _parts(text: str) -> Iterator[str]:
    """A text, then with its last statements left out, one more at a time."""
    lines = text.split("\n")
    yield text
    ends = [
        n for n, line in enumerate(lines) if n and line and not line.startswith((" ", "\t", ")", "]", "}"))
    ]
    for end in reversed(ends[-30:]):
        yield "\n".join(lines[:end])


def _compiling(texts: Iterator[str]) -> str | None:
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body):
            return text
    return None


def grade(output: str, question: Posed) -> TaskGrade:
    """Right if the program passes all tests. Parts: whether the output has a program that compiles."""
    program = program_of(output, question)
    if program is None:
        return TaskGrade(0.0, False, (0.0,))
    right = passes(f"{program}\n\n{json.loads(question.target)['test']}\n")
    return TaskGrade(float(right), right, (1.0,))


TASK = Task(grade=grade, parts=("compiles",))


def mutants(question: Question) -> tuple[str, ...]:
    """Three versions of the solution with one token changed that fail a test."""
    return first_wrong(_mutated(question), question, TASK)


def _mutated(question: Question) -> Iterator[str]:
    prompt = json.loads(question.target)["prompt"]
    # A solution begins at the prompt's last line; its own first line may lack some of its indentation.
    head = f"{prompt.rstrip()}\n    " if prompt else ""
    text = head + question.gold.lstrip(" ") if prompt else question.gold
    start = len(head)
    draw = draw_for(question, "code")
    edits = [edit for edit in _edits(text, draw) if edit[0] >= start]
    draw.shuffle(edits)
    shown = len(question.gold) - len(question.gold.lstrip(" ")) if prompt else 0
    for begin, end, new in edits[:_MOST_MUTANTS]:
        changed = text[:begin] + new + text[end:]
        try:
            ast.parse(changed)
        except (SyntaxError, ValueError):
            continue
        yield " " * shown + changed[start:]


def _edits(text: str, draw: random.Random) -> list[tuple[int, int, str]]:
    """Changes of one token: where it begins and ends, and the new one."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return []
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for token in tokens:
        options: tuple[str, ...] = ()
        if token.type in (tokenize.OP, tokenize.NAME):
            options = _CHANGES.get(token.string, ())
        elif token.type == tokenize.NUMBER and token.string.isdecimal():
            number = int(token.string)
            options = (str(number + 1), str(max(0, number - 1)))
        if options:
            begin, end = (starts[row - 1] + column for row, column in (token.start, token.end))
            found.append((begin, end, draw.choice(options)))
    return found


def _read(row: TaskRow) -> Question:
    if any(row.fields.get(key) for key in ("canonical_solution", "entry_point", "test")):
        entry = row.text("entry_point")
        prompt, solution = row.text("prompt"), row.text("canonical_solution").strip("\n")
        if not entry.isidentifier():
            raise DataError(f"data: {row.place}: 'entry_point' is not a function's name: {entry[:40]!r}")
        test = f"{row.text('test')}\ncheck({entry})"
        # One space of the indentation is the one between a prompt and an answer.
        return _question(
            row, prompt, solution.removeprefix(" "), {"prompt": prompt, "test": test, "entry_point": entry}
        )
    tests = row.texts("test_list", "tests")
    if not tests:
        row.text("test_list")
    code = row.text("code", "solution").replace("\r\n", "\n").strip()
    setup = [*row.texts("test_imports"), row.optional("test_setup_code")]
    name = next(iter(re.findall(r"^def (\w+)", code, re.MULTILINE)), "")
    shown = "\n".join(tests)
    asked = f'"""\n{row.text("text", "prompt").strip()}\n{shown}\n"""'
    target = {"prompt": "", "test": "\n".join([*filter(None, setup), *tests]), "entry_point": name}
    return _question(row, asked, code, target)


def _question(row: TaskRow, asked: str, solution: str, target: dict[str, Any]) -> Question:
    return Question(
        id=row.id,
        language=row.own_language,
        context="",
        question=asked.rstrip(),
        answers=(solution,),
        target=packed(target),
    )


SET = DataSet(
    name="code",
    title="programs with tests (HumanEval, MBPP)",
    read=task_reader("code", _read, HubPlace("openai/openai_humaneval", None, "test")),
    hub_rows=164,
    path="optional",
    endings=SUFFIXES,
    holds="functions and their tests",
    task=TASK,
    wrong=mutants,
    runs_code=True,
    settings={
        "prompts": {
            "open": "{question}\n",
            "cued": "{question}\n# One of these is right:\n{options}\n",
            "no_question": "{context}def ",
            "zero_shot": "{question}\n",
        },
        "probes": ["open", "choice", "choice_no_question"],
        "max_new_tokens": 256,
        "prompt_tokens": 1024,
        "stop": ["\nclass ", "\nif __name__", "\nprint(", "\nassert ", "\n\n\n\n"],
    },
    options="brought",
    licence="CC0 1.0",
)
