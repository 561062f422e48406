"""Wheel and source distribution: built, installed into an empty environment, and tried as a user would."""

from __future__ import annotations

import os
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRIED = """
import json, sys
from anomia.items.readers import read_questions
from anomia.study import Study
import anomia
questions = read_questions("demo")
assert len(questions) == 9 and all(len(found) >= 32 for found in questions.values())
print(anomia.__file__)
"""


def call(*command: str | Path, cwd: Path, limit: float = 900) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=limit
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, made from the source distribution as an index would, and that distribution."""
    folder = tmp_path_factory.mktemp("dist")
    source = "import os, sys; from hatchling.build import build_sdist; os.chdir(sys.argv[1]); build_sdist(sys.argv[2])"
    # The build backend in an environment of its own, so that the tests' environment needs none.
    venv.create(folder / "build", with_pip=True)
    python = folder / "build" / "bin" / "python"
    call(python, "-m", "pip", "install", "--quiet", "hatchling>=1.26", cwd=folder)
    call(python, "-c", source, ROOT, folder, cwd=folder)
    (sdist,) = folder.glob("*.tar.gz")
    call(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel, sdist


@pytest.mark.slow
def test_what_is_in_the_files(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    inside = zipfile.ZipFile(wheel).namelist()
    package = {
        file.relative_to(ROOT / "src").as_posix() for file in (ROOT / "src").rglob("*") if file.is_file()
    }
    package = {name for name in package if "__pycache__" not in name and not name.endswith(".pyc")}
    assert package <= set(inside), package - set(inside)
    assert not [name for name in inside if name.startswith(("tests", "docs", "benchmarks"))]
    assert any(name.endswith("LICENSE") for name in inside)
    with tarfile.open(sdist) as archive:
        outside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "CHANGELOG.md"} <= outside
    assert not [name for name in outside if name.startswith((".venv", "anomia-demo", "site/", ".hypothesis"))]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_wheel_works_in_an_empty_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, _ = built
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    limits = ["--constraint", ROOT / "constraints.txt"]
    # torch first, as the Makefile does: a looser request can bring gigabytes of CUDA libraries.
    for wanted in (["torch"], [str(wheel)]):
        call(
            bin_folder / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            *limits,
            *wanted,
            cwd=tmp_path,
            limit=1800,
        )
    call(bin_folder / "python", "-m", "pip", "check", cwd=tmp_path)
    assert call(bin_folder / "anomia", "--version", cwd=tmp_path).startswith("anomia ")
    commands = call(bin_folder / "anomia", "--help", cwd=tmp_path)
    for name in ("demo", "compare", "run", "show", "items", "report", "gate", "prune", "plan", "export"):
        assert name in commands
        assert "Usage" in call(bin_folder / "anomia", name, "--help", cwd=tmp_path)
    where = call(bin_folder / "python", "-c", TRIED, cwd=tmp_path)
    assert str(tmp_path) in where
    fault = subprocess.run(
        [bin_folder / "anomia", "demo", "--limit", "1"],
        cwd=tmp_path,
        env={**os.environ, "ANOMIA_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    # The demo's model is an extra: without it there is one message with the command that brings it.
    assert fault.returncode == 2, fault.stderr
    assert "anomia[demo]" in fault.stderr
