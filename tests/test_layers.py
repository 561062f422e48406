"""The layers of the program: a module imports only from its own layer or from a lower one, and the docs draw them truly."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import anomia

SOURCE = Path(anomia.__file__).parent
DRAWING = Path(__file__).parents[1] / "docs" / "design.md"
# From high to low, as docs/design.md draws them: one layer per line.
LINE = re.compile(r"^ {4}(?P<names>[a-z_]+(?:, [a-z_]+)*)  ")


def layers() -> list[list[str]]:
    """The layers of the drawing, the lowest one first."""
    section = DRAWING.read_text("utf-8").split("## Layers")[1].split("\n## ")[0]
    found = [match["names"].split(", ") for line in section.splitlines() if (match := LINE.match(line))]
    return found[::-1]


LEVEL = {name: level for level, names in enumerate(layers()) for name in names}


def part(module: str) -> str:
    """The file or package at the top that a module belongs to."""
    return module.split(".")[1] if "." in module else "anomia"


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and part of every import of the program's own, also those inside functions."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anomia"):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "anomia"
                else [node.module or ""]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("anomia")]
        else:
            continue
        yield from ((node.lineno, part(name)) for name in names)


def test_every_part_stands_in_one_layer() -> None:
    parts = {
        path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    drawn = [name for names in layers() for name in names]
    assert sorted(drawn) == sorted(parts - {"__init__", "_version"})


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_go_down(name: str) -> None:
    files = (
        [SOURCE / f"{name}.py"] if (SOURCE / f"{name}.py").exists() else sorted((SOURCE / name).rglob("*.py"))
    )
    wrong = [
        f"{file.relative_to(SOURCE)}:{line} imports {other}"
        for file in files
        for line, other in imports(file)
        if other in LEVEL and other != name and LEVEL[other] >= LEVEL[name]
    ]
    assert not wrong


def test_no_public_type_name_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(file.relative_to(SOURCE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
