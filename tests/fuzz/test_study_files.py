"""Study files: whatever stands in them, it is a study or one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from anomia.errors import AnomiaError
from anomia.matrix import read_matrix, write_matrix
from anomia.study import Study
from tests.fuzz.conftest import call, fuzz, refused, whole_program
from tests.fuzz.mutations import NASTY_TEXTS, SCALARS, VALUES, damaged, mutated

SOUND: dict[str, Any] = {
    "base": "./nowhere",
    "arms": ["wanda:0.5,calibration=demo+int8", "checkpoint:./other", "sparsegpt:2:4", "wanda:0.6,allocation=owl"],
    "data": "demo",
    "languages": ["english", "sw"],
    "limit": 5,
    "seed": 1,
    "probes": ["open", "choice"],
    "dtype": "float32",
    "device": "cpu",
    "batch_size": "auto",
    "calibration": "demo",
    "until_width": 0.2,
}  # fmt: skip
MATRIX: dict[str, Any] = {
    **{key: SOUND[key] for key in ("limit", "calibration")},
    "base": ["./nowhere", {"./other": {"chat": True, "dtype": "float32"}}],
    "arms": ["magnitude:0.5", {"wanda": {"sparsity": [0.3, 0.5], "calibration": ["c4", "balanced"]}}, {"int4": {}}],
    "data": ["demo", "tydiqa"],
    "languages": {"demo": ["english"], "tydiqa": ["sw", "english"]},
    "seed": [42, 43],
}  # fmt: skip
KEYS = st.sampled_from([*Study.model_fields, "provenance", "bas", "arm"]) | NASTY_TEXTS
# An arm is a small language of its own.
ARMS = st.lists(
    st.sampled_from(
        [
            "wanda", "magnitude", "sparsegpt", "owl", "int4", "checkpoint", "base", ":", ":", "0.5", "2:4", "-1",
            "nan", "1e9", "+", ",", "=", "group", "allocation", "calibration", "c4", "file:", "%2", "%zz", " ", "١",
            "samples", "99999999999999999999", "0:0", "4:2", "own", "budget",
        ]
    ),
    max_size=8,
).map("".join)  # fmt: skip


def written(values: Any) -> bytes:
    try:
        return yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return repr(values).encode("utf-8", "surrogatepass")


def check(content: bytes, place: Path) -> None:
    file, out = place / "study.yaml", place / "run"
    file.write_bytes(content)
    try:
        matrix = read_matrix(file, {})
    except AnomiaError as error:
        assert str(error).startswith("study: ")  # noqa: PT017
        if whole_program(content):
            refused(call("run", file, "--out", out))
        assert not out.exists()
    else:
        # What is read can be written, and read again as the same.
        again = place / "again.yaml"
        write_matrix(matrix, again)
        assert read_matrix(again, {}).cells == matrix.cells


@given(content=damaged(written(SOUND)))
@example(content=b"base: 2001-99-99")
@example(content=b"arms: &a [*a]\nbase: x")
@example(content=b"? [a, b]\n: c")
@example(content=b"[" * 20000)
@example(content=b"a: " * 3000)
@example(content=b"base: !!python/object/apply:os.system [true]")
@example(content=b"limit: " + b"9" * 5000)
@example(content=b"\xff\xfe\x00")
@example(content=b"base: x\narms: [wanda:0.5]\nlimit: 0b")
@example(content=b"{: : :}")
@example(content=b"base: !!float x\n")
@example(content=b"!!int '': 1")
@fuzz()
def test_any_bytes(content: bytes, place: Path) -> None:
    check(content, place)


@given(values=mutated(SOUND))
@fuzz()
def test_a_study_with_faults(values: Any, place: Path) -> None:
    check(written(values), place)


@given(values=mutated(MATRIX))
@example(values={"base": {"./nowhere": 5}, "arms": ["magnitude:0.5"]})
@example(values={"base": "x", "arms": ["magnitude:0.5"], "data": [["demo"]], "languages": {"demo": "en"}})
@fuzz()
def test_a_matrix_with_faults(values: Any, place: Path) -> None:
    check(written(values), place)


@given(values=st.dictionaries(KEYS, VALUES | SCALARS, max_size=6))
@fuzz()
def test_any_keys_and_values(values: Any, place: Path) -> None:
    check(written({"base": "./nowhere", "arms": ["magnitude:0.5"], **values}), place)


@given(arm=ARMS | st.text(max_size=20))
@fuzz()
def test_any_arm(arm: str, place: Path) -> None:
    check(written({"base": "./nowhere", "arms": [arm]}), place)


@pytest.mark.parametrize("kind", ["folder", "missing"])
def test_no_file_at_all(kind: str, tmp_path: Path) -> None:
    refused(call("run", tmp_path if kind == "folder" else tmp_path / "x.yaml", "--out", tmp_path / "run"))
