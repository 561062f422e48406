"""Study files with lists: what they stand for, that they come back as themselves, and what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import RunError, StudyError
from anomia.matrix import describe, expand_arm, read_matrix, write_matrix
from anomia.study import Study, read_study

FULL = """
base: [a/one, {b/two: {chat: true}}]
arms:
  - magnitude:0.5
  - wanda: {sparsity: [0.3, 0.5], calibration: [c4, balanced]}
data: [tydiqa, xquad]
languages: {tydiqa: [sw], xquad: [th, english]}
seed: [1, 2]
limit: 7
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_lists_become_cells(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, FULL), {})
    assert not matrix.single
    assert [cell.name for cell in matrix.cells] == [
        f"{base}.{data}.seed{seed}"
        for base in ("one", "two")
        for data in ("tydiqa", "xquad")
        for seed in (1, 2)
    ]
    studies = matrix.studies
    assert {study.arms for study in studies} == {
        (
            "magnitude:0.5",
            "wanda:0.3,calibration=c4",
            "wanda:0.3,calibration=balanced",
            "wanda:0.5,calibration=c4",
            "wanda:0.5,calibration=balanced",
        )
    }
    assert [study.chat for study in studies] == [False] * 4 + [True] * 4
    assert {study.data: study.languages for study in studies} == {
        "tydiqa": ("swahili",),
        "xquad": ("thai", "english"),
    }
    assert {study.limit for study in studies} == {7}


def test_a_matrix_that_was_written_is_the_same_study(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, FULL), {})
    write_matrix(matrix, tmp_path / "matrix.yaml")
    assert read_matrix(tmp_path / "matrix.yaml", {}) == matrix
    assert yaml.safe_load((tmp_path / "matrix.yaml").read_text())["cells"] == [c.name for c in matrix.cells]


def test_one_base_data_set_and_seed_is_an_ordinary_study(tmp_path: Path) -> None:
    path = written(tmp_path, "base: x\narms: [wanda: {sparsity: [0.3, 0.5]}, magnitude:0.5]\n")
    matrix = read_matrix(path, {"limit": 3})
    assert matrix.single
    assert matrix.studies == [Study(base="x", arms=("wanda:0.3", "wanda:0.5", "magnitude:0.5"), limit=3)]
    plain = written(tmp_path, "base: x\narms: [wanda:0.5]\n")
    assert read_matrix(plain, {}).studies == [read_study(plain, {})]


def test_flags_win_over_lists(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, FULL), {"base": "c/three", "seed": 9})
    assert [(s.base, s.seed) for s in matrix.studies] == [("c/three", 9)] * 2


@pytest.mark.parametrize(
    ("entry", "arms"),
    [
        ("wanda:0.5+int8", ["wanda:0.5+int8"]),
        ({"wanda": {"pattern": ["2:4", "4:8"]}}, ["wanda:2:4", "wanda:4:8"]),
        ({"sparsegpt": 0.5}, ["sparsegpt:0.5"]),
        ({"magnitude": [0.1, 0.2]}, ["magnitude:0.1", "magnitude:0.2"]),
        ({"checkpoint": ["me/a", "/b"]}, ["checkpoint:me/a", "checkpoint:/b"]),
        ({"int4": {"group": [64, 128]}}, ["int4,group=64", "int4,group=128"]),
        ({"gptq": {"bits": [3, 4], "symmetric": False}}, ["gptq:3,symmetric=no", "gptq:4,symmetric=no"]),
        ({"shortgpt": {"share": 0.25}}, ["shortgpt:0.25"]),
        (
            {"wanda": {"sparsity": 0.5, "calibration": "file:/a,b+c"}},
            ["wanda:0.5,calibration=file:/a%2Cb%2Bc"],
        ),
    ],
)
def test_entries_of_arms(entry: Any, arms: list[str]) -> None:
    assert expand_arm(entry) == arms


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: [x, x]\narms: [wanda:0.5]", "asked for twice"),
        ("base: []\narms: [wanda:0.5]", "base is an empty list"),
        ("base: x\narms: [{wanda: {sparsity: [0.3, 1.3]}}]", "between 0 and 1"),
        ("base: x\narms: [{wanda: {sparsty: 0.3}}]", "sparsty"),
        ("base: x\narms: [3]", "is not an arm"),
        ("base: [{x: {limit: 3}}]\narms: [wanda:0.5]", "x: unknown key 'limit'"),
        ("base: x\narms: [wanda:0.5]\ndata: [demo]\nlanguages: {dmo: [sw]}", "did you mean 'demo'"),
        ("base: x\narms: [wanda:0.5]\ndata: [demo, dmo]", "dmo"),
        ("base: [x, y]\narms: [wnda:0.5]\nlimit: 0", "has 2 faults"),
    ],
)
def test_faults(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=says):
        read_matrix(written(tmp_path, text), {})


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(SCALARS, SCALARS, max_size=2)


@given(st.dictionaries(st.sampled_from([*Study.model_fields, "x"]), VALUES | st.lists(VALUES, max_size=2)))
def test_any_values_give_studies_or_a_study_error(values: dict[str, Any]) -> None:
    with contextlib.suppress(StudyError):
        matrix = read_matrix(None, values)
        assert read_matrix(None, describe(matrix)).cells == matrix.cells


def test_tasks_keep_their_own_defaults_in_a_matrix(tmp_path: Path) -> None:
    """A matrix file names no setting that differs between data sets, so that each gets its default again."""
    matrix = read_matrix(None, {"base": "m", "arms": ["wanda:0.5"], "data": ["math", "tools", "demo"]})
    lengths = [study.max_new_tokens for study in matrix.studies]
    assert len(set(lengths)) == 3
    write_matrix(matrix, tmp_path / "study.yaml")
    assert read_matrix(tmp_path / "study.yaml", {}).studies == matrix.studies


def test_a_study_of_the_user_is_not_replaced_by_that_of_the_cells(tmp_path: Path) -> None:
    matrix, file = read_matrix(written(tmp_path, FULL), {}), tmp_path / "matrix.yaml"
    file.write_text("base: [a, b]")
    with pytest.raises(RunError, match="was not written by a run"):
        write_matrix(matrix, file)
    assert file.read_text() == "base: [a, b]"
    file.unlink()
    write_matrix(matrix, file)
    write_matrix(matrix, file)
