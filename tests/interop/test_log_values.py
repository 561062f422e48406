"""Values in other tools' logs, by the rules for all text: numbers, nulls, odd lines, the hub's forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from anomia.errors import DataError
from anomia.interop.as_run import import_run
from anomia.interop.lighteval_log import read_lighteval
from anomia.interop.lm_eval_log import read_lm_eval
from tests.interop.logs import choice_sample, detail, document, open_sample, write_lines, write_model


def one(tmp_path: Path, row: dict[str, Any]) -> Any:
    found = read_lm_eval(write_lines(tmp_path / "samples_towns.jsonl", [row]))
    assert found is not None
    return found.samples[0]


@pytest.mark.parametrize(
    ("answers", "read"),
    [
        ({"text": ["Ann", "Ann Lee"], "answer_start": [0, 0]}, ("Ann", "Ann Lee")),
        ({"value": "Ann", "aliases": ["Ann Lee"]}, ("Ann", "Ann Lee")),
        ([1889, "1890", None], ("1889", "1890")),
        (1889, ("1889",)),
        ([{"text": "Ann"}], ("Ann",)),
    ],
)
def test_gold_answers_in_the_forms_of_the_hub(tmp_path: Path, answers: Any, read: tuple[str, ...]) -> None:
    row = open_sample(3, "x", False, doc={**document(3), "answers": answers}, target="other")
    assert one(tmp_path, row).answers == read


def test_ids_and_targets_that_became_floats(tmp_path: Path) -> None:
    ids = [
        one(tmp_path, open_sample(3, "x", False, doc={**document(3), "id": given})).keys.get("id")
        for given in (7, 7.0, "7", " 7 ", None, True, float("nan"))
    ]
    assert ids == ["7", "7", "7", "7", None, None, None]
    for target in (1, 1.0, "1", "1.0"):
        assert one(tmp_path, choice_sample(3, False, target=target)).gold == 1
    assert one(tmp_path, choice_sample(3, False, target=float("nan"))).gold is None


def test_odd_numbers_and_half_characters_are_no_reason_to_refuse_a_log(tmp_path: Path) -> None:
    row = open_sample(3, "one\ud800two", True, exact_match=float("nan"), perplexity=float("inf"))
    found = one(tmp_path, row)
    assert found.text == "one?two"
    assert "exact_match" not in found.metrics


def test_a_log_that_was_cut_off_names_the_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "samples_x.jsonl", [open_sample(n, "x", True) for n in range(3)])
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"samples_x\.jsonl, line 3 is not JSON .*it ends early"):
        read_lm_eval(path)


def test_a_choice_that_is_null_would_shift_the_gold_index(tmp_path: Path) -> None:
    row = detail(3, choice=True, right=True)
    row = {**row, "doc": {**row["doc"], "choices": [None, *row["doc"]["choices"][1:]]}}
    path = tmp_path / "details_towns|0.parquet"
    Dataset.from_list([detail(2, choice=True, right=True), row]).to_parquet(str(path))
    with pytest.raises(DataError, match="row 2: a choice is not text"):
        read_lighteval(path)


def test_two_logs_of_one_task_are_named(tmp_path: Path) -> None:
    base, arm = (write_model(tmp_path / name, said={1, 2}, picked={1, 2, 3}) for name in ("base", "int4"))
    again = base / "samples_towns_again.jsonl"
    again.write_bytes(next(base.glob("*gen*")).read_bytes())
    with pytest.raises(
        DataError, match=r"every question of its open samples more than once.*towns_again\.jsonl"
    ):
        import_run("lm-eval", {"base": [base], "int4": [arm]}, tmp_path / "run")
    again.unlink()
    doubled = next(arm.glob("*gen*"))
    doubled.write_bytes(2 * doubled.read_bytes())
    with pytest.raises(DataError, match="int4 has every question of its open samples more than once"):
        import_run("lm-eval", {"base": [base], "int4": [arm]}, tmp_path / "run")


def test_logs_with_marks_and_windows_line_ends_make_the_same_run(tmp_path: Path) -> None:
    folders = [write_model(tmp_path / name, said={1, 2}, picked={1, 2, 3}) for name in ("base", "int4")]
    models = dict(zip(("base", "int4"), ([folder] for folder in folders), strict=True))
    import_run("lm-eval", models, tmp_path / "plain")
    for path in (path for folder in folders for path in folder.glob("*.jsonl")):
        lines = [
            json.dumps(json.loads(line), ensure_ascii=False) for line in path.read_text().split("\n") if line
        ]
        path.write_bytes("\ufeff".encode() + "\r\n\r\n".join(lines).encode())
    import_run("lm-eval", models, tmp_path / "windows")
    for name in ("items.parquet", "records"):
        mine, other = (tmp_path / folder / name for folder in ("plain", "windows"))
        files = sorted(mine.glob("*.parquet")) if mine.is_dir() else [mine]
        assert files
        for file in files:
            assert file.read_bytes() == (other / file.name if other.is_dir() else other).read_bytes()
