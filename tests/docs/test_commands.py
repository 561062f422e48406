"""Every command of the README and the docs is known: it is run (`test_run_*.py`), parsed or looked up."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from anomia.cli.app import app
from tests.docs.commands import ALL, PARTS, ROOT, Command, Treatment, commands, of, pages_of, treatment


def test_the_pages_show_commands_and_each_is_accounted_for() -> None:
    assert len(ALL) > 30
    assert {done.kind for _, done in ALL} <= {"run", "parse", "flags", "make", "pip", "python", "told"}
    assert sum(done.kind == "run" for _, done in ALL) > 20
    modules = sorted((ROOT / "tests" / "docs").glob("test_run_*.py"))
    assert [module.stem for module in modules] == [f"test_run_{part}" for part in range(PARTS)]
    running = {command.page for command, done in ALL if done.kind == "run"}
    assert sorted(page for part in range(PARTS) for page in pages_of(part)) == sorted(running)
    with pytest.raises(LookupError):
        treatment(Command("x.md", 1, "anomai run", False))


def test_extraction_joins_lines_and_drops_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.commands.ROOT", tmp_path)
    page = tmp_path / "x.md"
    page.write_text(
        "```sh\nanomia run \\\n  --base x  # why\n$ make a && make b\n```\nand `anomia show RUN`\n"
    )
    assert [(found.text, found.line) for found in commands(page)] == [
        ("anomia run --base x", 3), ("make a", 4), ("make b", 4), ("anomia show RUN", 6),
    ]  # fmt: skip


@of("parse")
def test_parse(command: Command, done: Treatment) -> None:
    """Every flag exists and has a value of its type; nothing is executed."""
    group: Any = typer.main.get_command(app)
    name, *rest = done.words
    found = group.get_command(None, name)
    assert found is not None, f"there is no command {name!r}"
    found.make_context(name, rest)


@of("flags")
def test_flags(command: Command, done: Treatment) -> None:
    group: Any = typer.main.get_command(app)
    found = group.get_command(None, done.words[0])
    assert found is not None, f"there is no command {done.words[0]!r}"
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in done.words if re.match(r"--[a-z]", word)} <= known | {"--help"}


@of("make")
def test_make(command: Command, done: Treatment) -> None:
    run = subprocess.run(
        ["make", "--dry-run", *done.words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    group: Any = typer.main.get_command(app)
    for line in run.stdout.splitlines():
        if match := re.search(r"bin/anomia (\w+) ?(.*)", line):
            group.get_command(None, match[1]).make_context(match[1], match[2].split())


@of("pip", "python")
def test_what_a_line_names_exists(command: Command, done: Treatment) -> None:
    if done.kind == "python":
        assert (ROOT / done.words[0]).is_file()
        return
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in done.words:
        for found in re.findall(r"\[([\w,]+)\]", word):
            assert set(found.split(",")) <= extras.keys(), word
