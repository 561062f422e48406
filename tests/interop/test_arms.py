"""Whose a file is: by flags, by folders, or by what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anomia.errors import DataError
from anomia.interop.arms import models_from
from tests.interop.logs import choice_sample, open_sample, scored_sample, write_lines, write_model

EVERY = set(range(24))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Base's generation and choice, then the arm's, called after nothing."""
    for name in ("base", "arm"):
        write_model(tmp_path / name, said=EVERY, picked=EVERY)
    base, arm = (sorted((tmp_path / name).glob("*.jsonl")) for name in ("base", "arm"))
    return [file.rename(tmp_path / f"{n}.jsonl") for n, file in enumerate([*base, *arm])]


def test_files_are_distinct_by_what_is_in_them(files: list[Path]) -> None:
    for order in ((0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3)):
        models = models_from("lm-eval", [files[n] for n in order], [], [])
        assert set(models["base"]) == {files[0], files[1]}
        assert set(models["compressed"]) == {files[2], files[3]}


def test_flags_say_whose_files_they_are(tmp_path: Path) -> None:
    found = models_from("lm-eval", [], [tmp_path / "a", tmp_path / "b"], ["int4=x", "int4=y", "int8=z"])
    assert found == {
        "base": [tmp_path / "a", tmp_path / "b"], "int4": [Path("x"), Path("y")], "int8": [Path("z")],
    }  # fmt: skip
    for base, arms, says in (
        ([], ["a=b"], "give --base"), ([tmp_path], ["nameless"], "NAME=PATH"), ([tmp_path], ["base=b"], "other than"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=says):
            models_from("lm-eval", [], base, arms)
    with pytest.raises(DataError, match="not both"):
        models_from("lm-eval", [tmp_path], [tmp_path], ["a=b"])


def other_task(path: Path, *, questions: range, **changes: Any) -> Path:
    """A generation task over other documents, of which some may be the files' own."""
    rows = []
    for number in questions:
        doc = {"id": str(number), "question": f"What is {number}?", "answers": [f"{number}"], **changes}
        rows.append(open_sample(number, "x", True, doc=doc, doc_hash=f"other {number}"))
    return write_lines(path, rows)


def test_a_file_of_another_task_makes_no_arm(files: list[Path], tmp_path: Path) -> None:
    stray = other_task(tmp_path / "stray.jsonl", questions=range(24))
    # One document of twenty-four is the task's own.
    shared = [open_sample(n, "x", True) if n == 0 else open_sample(n + 90, "x", True) for n in range(24)]
    write_lines(tmp_path / "overlap.jsonl", shared)
    for file in (stray, tmp_path / "overlap.jsonl"):
        with pytest.raises(
            DataError, match=f"every task needs one file per model.*{file.name}; add what is missing"
        ):
            models_from("lm-eval", [*files, file], [], [])
    with pytest.raises(DataError, match="every task needs one file per model"):
        models_from("lm-eval", [*files, files[0]], [], [])


def test_equal_ids_are_no_equal_questions(files: list[Path], tmp_path: Path) -> None:
    def numbered(name: str, gold: str) -> Path:
        rows = [open_sample(n, "x", True, doc={"id": n, "answers": [f"{gold}{n}"]}) for n in range(24)]
        for row in rows:
            del row["doc_hash"]
        return write_lines(tmp_path / name, rows)

    one, same, other = numbered("a.jsonl", "gold"), numbered("b.jsonl", "Gold"), numbered("c.jsonl", "silver")
    choices = [files[1], files[3]]
    assert set(models_from("lm-eval", [one, *choices, same], [], [])) == {"base", "compressed"}
    with pytest.raises(DataError, match="every task needs one file per model"):
        models_from("lm-eval", [one, *choices, other], [], [])


def test_a_shorter_log_is_of_the_same_task(files: list[Path]) -> None:
    write_lines(files[2], [open_sample(n, "x", True) for n in range(5)])
    write_lines(files[3], [choice_sample(n, True) for n in range(5)])
    assert set(models_from("lm-eval", files, [], [])) == {"base", "compressed"}


def test_a_file_that_only_scores_is_one_message(files: list[Path], tmp_path: Path) -> None:
    scored = write_lines(tmp_path / "lambada.jsonl", [scored_sample(n) for n in range(3)])
    with pytest.raises(DataError, match="only scores given texts"):
        models_from("lm-eval", [*files, scored], [], [])
