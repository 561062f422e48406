"""The commands that the documentation shows, and what the tests do with each: none is left out in silence.

    python -m tests.docs.commands

lists them.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "methods").glob("*.md")),
    # The examples that --help shows.
    *sorted((ROOT / "src" / "anomia" / "cli").glob("*.py")),
)
_FENCE = re.compile(
    r"^(?P<indent> *)```(?:sh|bash|console|shell)\b[^\n]*\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"`((?:\.venv/bin/)?anomia [a-z][^`]*|make [a-z][^`]*)`")
# Runs are made small, and C4 and Wikipedia, which the hub streams, come from a folder.
_SMALL = ["--limit", "3"]
_CALIBRATION = [
    "--calibration-folder",
    "CALIBRATION",
    "--calibration-samples",
    "2",
    "--calibration-tokens",
    "32",
]
_ONLY_READ = {
    "view": "it serves until it is stopped",
    "demo": "it takes the real model and minutes; the slow tests and every `make demo` run it",
    "locate": "it needs items that base answers, and tiny random models answer none; tests/locate has some",
    "answers": "it would answer whole data sets; tests/running/test_answers.py runs it on small ones",
    "repair": "it needs a model and the same model pruned; tests/compress/test_repair.py has some",
    "import": "it needs the logs of another harness; tests/interop has real ones",
}
_FAR = {
    "--open": "it opens a browser",
    "--track": "it needs a tracker's account",
    "--ray": "it needs a Ray cluster",
    "map": "it needs GPUs",
}
_TOLD = {
    ".": "it changes the shell",
    **dict.fromkeys(("rm", "cp", "mv", "mkdir", "cd", "cat", "tail", "curl"), "the shell's own"),
    "git": "it needs the repository's address",
    "lm-eval": "another program; tests/interop runs it where it is installed",
    "lm_eval": "another program; tests/interop runs it where it is installed",
    "ray": "it needs several machines",
    "docker": "it needs Docker",
    "export": "it changes the shell",
    "llama-server": "another program",
    "vllm": "another program",
}


class Command(NamedTuple):
    """One command of a page. inline: it stands in a sentence, perhaps in part."""

    page: str
    line: int
    text: str
    inline: bool


class Treatment(NamedTuple):
    """What is done with a command. kind: run, parse, make, pip or told (only listed, with the reason)."""

    kind: str
    words: tuple[str, ...]
    why: str


def commands(page: Path) -> list[Command]:
    """All commands of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    found = []
    for block in _FENCE.finditer(text):
        first = text.count("\n", 0, block.start()) + 2
        joined = ""
        for offset, line in enumerate(block["body"].splitlines()):
            joined += line.strip().removeprefix("$ ")
            if joined.endswith("\\"):
                joined = joined[:-1] + " "
                continue
            for part in _split(joined):
                found.append(Command(name, first + offset, part, False))
            joined = ""
    if page.suffix == ".py":
        return [
            Command(name, text.count("\n", 0, match.start()) + 1, match[1], True)
            for match in re.finditer(r"^ *Example: (anomia .*)$", text, re.MULTILINE)
        ]
    prose = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    for match in _INLINE.finditer(prose):
        found.append(Command(name, prose.count("\n", 0, match.start()) + 1, match[1], True))
    return found


def _split(line: str) -> list[str]:
    """The commands of a line: without its comment, taken apart at `&&`."""
    # As in a shell, `#` within a word (endpoint:URL#MODEL) begins no comment.
    line = re.sub(r"(^|\s)#.*$", "", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    parts: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&;|"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [shlex.join(part) for part in parts if part]


def treatment(command: Command) -> Treatment:
    """What the tests do with a command. Raises `LookupError` for one that nothing is known about."""
    words = shlex.split(command.text)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if not words:
        return Treatment("told", (), "a setting of the shell")
    program, rest = words[0].removeprefix(".venv/bin/"), tuple(words[1:])
    if program == "make":
        return Treatment("make", rest, "its target and its commands are looked at, with make --dry-run")
    if program == "pip":
        return Treatment("pip", rest, "its extras are looked up in pyproject.toml")
    if program == "python" and rest[0].endswith(".py"):
        return Treatment("python", rest, "the script is looked up")
    if program == "python" and rest[:1] == ("-m",):
        return Treatment("told", rest, "a module's own test runs it")
    if program in _TOLD or program == "pytest":
        return Treatment("told", rest, _TOLD.get(program, "it is the tests themselves"))
    if program != "anomia":
        raise LookupError(f"{command.page}:{command.line}: nothing is known about {command.text!r}")
    return _anomia(command, rest)


def _anomia(command: Command, rest: tuple[str, ...]) -> Treatment:
    if command.inline and (len(rest) == 1 or rest[-1] == "--items-needed"):
        return Treatment("flags", rest, "it only names a command: that is looked up")
    if command.inline and re.search(r"…|\.\.\.|[A-Z]{2,}\b", " ".join(rest)):
        return Treatment("flags", rest, "it is not whole: its flags are looked up")
    if rest[0] in _ONLY_READ:
        return Treatment("parse", rest, _ONLY_READ[rest[0]])
    for word in rest:
        if word in _FAR and (word != "--open" or rest[0] == "report"):
            return Treatment("parse", rest, _FAR[word])
        if word.startswith(("endpoint:", "s3://", "gs://")) or "endpoint:" in word:
            return Treatment("parse", rest, "it needs a server")
    if command.inline:
        return Treatment("parse", rest, "it stands in a sentence: it is parsed")
    if rest[0] in ("run", "compare"):
        small = [*_SMALL, *(_CALIBRATION if rest[0] == "run" else [])]
        if "studies/small.yaml" in rest:
            small += ["--probes", "open,choice"]
        return Treatment("run", (*rest, *small), f"run on tiny models with {' '.join(small)}")
    if rest[0] in ("prune", "compress"):
        small = _CALIBRATION if "demo" not in rest else _CALIBRATION[2:]
        return Treatment("run", (*rest, *small), f"run on a tiny model with {' '.join(small)}")
    return Treatment("run", rest, "run as it stands")


ALL = [(command, treatment(command)) for page in PAGES for command in commands(page)]
# Files of tests that run commands, so that several processes share the work.
PARTS = 4
Ran = dict[tuple[str, int, str], tuple[int, str]]


def of(*kinds: str, pages: Collection[str] | None = None) -> Any:
    """The commands of these kinds, of all pages or of some, as parameters of a test."""
    chosen = [
        (command, done)
        for command, done in ALL
        if done.kind in kinds and (pages is None or command.page in pages)
    ]
    names = [f"{command.page}:{command.line}" for command, _ in chosen]
    return pytest.mark.parametrize(("command", "done"), chosen, ids=names)


def pages_of(part: int) -> list[str]:
    """The pages whose commands one part runs: dealt out in the order of how many commands they have."""
    counts = Counter(command.page for command, done in ALL if done.kind == "run")
    return [page for page, _ in counts.most_common()][part::PARTS]


def check(command: Command, done: Treatment, ran: Ran) -> None:
    """A command that was run succeeded; a gate may also fail, or not decide."""
    code, said = ran[command.page, command.line, command.text]
    allowed = (0, 1, 3) if done.words[0] == "gate" else (0,)
    assert code in allowed, f"{command.text}: exit code {code}\n{said[-3000:]}"


def main() -> None:
    """Prints every command and what is done with it."""
    for command, done in ALL:
        print(f"{command.page}:{command.line}: {command.text}\n    {done.kind}: {done.why}")


if __name__ == "__main__":
    main()
