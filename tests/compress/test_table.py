"""Every name that the grammar knows has code behind it, which takes what the catalogue says."""

from __future__ import annotations

from pathlib import Path

import pytest

import anomia.compress.methods as package
from anomia.compress.catalogue import CATALOGUE, MethodKind
from anomia.compress.methods.base import Method, Updater
from anomia.compress.methods.update import SOLVERS
from anomia.compress.reshape.base import Reshaper


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.code])
def test_every_name_has_code_of_its_kind(name: str) -> None:
    entry = CATALOGUE[name]
    expected = {MethodKind.UPDATE: Updater, MethodKind.RESHAPE: Reshaper}.get(entry.kind, Method)
    assert isinstance(entry.load(), expected)


@pytest.mark.parametrize(
    "name", [name for name, entry in CATALOGUE.items() if entry.code and entry.kind is not MethodKind.RESHAPE]
)
def test_what_reads_text_is_what_needs_statistics(name: str) -> None:
    loaded = CATALOGUE[name].load()
    assert CATALOGUE[name].calibrated == (
        loaded.needs is not None or getattr(loaded, "whole_gradients", None) is not None
    )


def test_no_file_exports_a_method_that_the_catalogue_lacks() -> None:
    listed = {entry.code.partition(":")[0].rpartition(".")[2] for entry in CATALOGUE.values() if entry.code}
    folder = Path(package.__file__).parent
    exporting = {
        file.stem
        for file in folder.glob("*.py")
        if any(line.startswith(("METHOD =", "UPDATER =")) for line in file.read_text("utf-8").splitlines())
    }
    assert exporting <= listed


def test_solvers_are_those_of_the_catalogue() -> None:
    (solver,) = CATALOGUE["update"].options
    assert solver.choices == SOLVERS
