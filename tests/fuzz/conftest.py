"""What all fuzz tests share: how many inputs, and what a user may see of a bad one.

`make fuzz` gives every test 10,000 inputs (`ANOMIA_FUZZ`); the ordinary tests a few hundred.
"""

from __future__ import annotations

import os
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from tests.command import anomia

EXAMPLES = int(os.environ.get("ANOMIA_FUZZ", "200"))


def fuzz(share: float = 1.0) -> Callable[[Any], Any]:
    """Settings of a fuzz test; `share` of the inputs where one of them takes long."""
    return settings(
        max_examples=max(25, int(EXAMPLES * share)),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def whole_program(content: bytes) -> bool:
    """Whether an input goes through the command line too: a fourth of hundreds, a twentieth of thousands.

    Building the command line takes ten times as long as what is tested. The same input always goes the same way.
    """
    return zlib.crc32(content) % (4 if EXAMPLES <= 1000 else 20) == 0


class Seen(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: str | Path) -> Seen:
    """Calls the program; any exception but its own way out is a fault."""
    try:
        return Seen(*anomia(*arguments))
    except BaseException:
        raise AssertionError(f"a traceback:\n{traceback.format_exc(limit=-6)}") from None


def refused(seen: Seen) -> None:
    """One message and exit code 2."""
    assert seen.code == 2, seen
    assert seen.err.startswith("error: "), seen.err
    assert "Traceback" not in seen.err


@pytest.fixture(scope="module", autouse=True)
def _wide_terminal() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all inputs of a module: hypothesis runs many inputs in one test."""
    return tmp_path_factory.mktemp("fuzz")
