"""The layers of the program: a module imports only from its own layer or from a lower one, and the docs draw them truly."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
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


def types_of(file: Path) -> Iterator[str]:
    """Names of public classes and type aliases at a module's top; type variables are local to their module."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names, value = [node.name], None
        elif isinstance(node, ast.Assign):
            names, value = [ast.unparse(target) for target in node.targets], node.value
        elif isinstance(node, ast.AnnAssign):
            names, value = [ast.unparse(node.target)], node.value
        else:  # `type X = …`, from Python 3.12 on
            names, value = ([node.name.id] if type(node).__name__ == "TypeAlias" else []), None  # type: ignore[attr-defined]
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("TypeVar"):
            continue
        yield from (name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name))


def test_no_public_type_name_stands_twice() -> None:
    places: dict[str, list[str]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for name in types_of(file):
            places.setdefault(name, []).append(str(file.relative_to(SOURCE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


ARRAY = re.compile(r"\b(Tensor|NDArray|ndarray|ArrayLike)\b")
# Of torch, they make or take no tensor.
NO_TENSORS = {
    "device", "no_grad", "inference_mode", "Generator", "manual_seed", "get_num_threads", "set_num_threads",
}  # fmt: skip


def count_torch_calls(function: ast.FunctionDef) -> int:
    """Calls of functions such as torch.cat, also those of functions inside."""
    called = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
    return sum(name.startswith("torch.") and name.rpartition(".")[2] not in NO_TENSORS for name in called)


def test_long_functions_on_tensors_give_their_shapes() -> None:
    """Functions of over 15 lines, private ones too. Shapes are written as `[rows, columns]`, or said in words."""
    without = []
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef) or node.end_lineno - node.lineno < 15:  # type: ignore[operator]
                continue
            arguments = [each for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            types = [each.annotation for each in arguments if each.annotation] + [node.returns]
            moves = (
                any(ARRAY.search(ast.unparse(each)) for each in types if each) or count_torch_calls(node) > 2
            )
            if moves and not re.search(r"\[|\bshape", ast.get_docstring(node) or ""):
                without.append(f"{file.relative_to(SOURCE)}:{node.lineno} {node.name}")
    assert without == []


def test_reading_a_run_loads_no_torch() -> None:
    """`anomia show` and `gate` of a finished run start without it; it takes seconds."""
    asked = "import sys, anomia.cli, anomia.measure.results; print([m for m in ('torch', 'torchao') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
