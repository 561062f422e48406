"""Other people's programs that tests compare with, each in an environment of its own that `make peers` makes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def peer(name: str) -> Path:
    """The interpreter of a peer: of `.venv-NAME`, or the one that ANOMIA_NAME_PYTHON names; else the test is skipped."""
    variable = f"ANOMIA_{name.upper().replace('-', '_')}_PYTHON"
    named = os.environ.get(variable)
    home = ROOT / f".venv-{name}"
    if named:
        return Path(named)
    if not (home / ".installed").is_file():
        pytest.skip(f"{name} is not here: make peers installs it, or {variable} names its interpreter")
    return home / "bin" / "python"
