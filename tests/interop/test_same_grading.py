"""Base and compressed models are graded alike: through one filter, by one metric, against the same gold answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from datasets import Dataset

from anomia.cli import main
from anomia.errors import DataError
from anomia.interop.as_run import import_run
from anomia.interop.filters import counterpart
from anomia.interop.lm_eval_log import read_lm_eval
from anomia.interop.sources import read_logs
from anomia.run_folder import RunFolder
from tests.interop.logs import choice_sample, detail, open_sample, write_lines

COUNT = 12
DATE = "2026-01-31T12-00-00.123456"
# One output, which the flexible filter finds right and the strict one wrong.
RIGHT = {"flexible": True, "strict": False}


def write(
    folder: Path, filters: Sequence[str] = ("none",), change: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    """A model's logs: every open answer once for each filter. change: what is done to each open sample."""
    rows = [
        open_sample(n, f" Founder{n}", RIGHT.get(name, True), filter=name)
        for n in range(COUNT)
        for name in filters
    ]
    for row in rows:
        if change:
            change(row)
    write_lines(folder / f"samples_gen_{DATE}.jsonl", rows)
    write_lines(folder / f"samples_mc_{DATE}.jsonl", [choice_sample(n, True) for n in range(COUNT)])
    return folder


def imported(tmp_path: Path, **options: Any) -> dict[str, list[bool | None]]:
    """Which open answers were right, by model."""
    import_run("lm-eval", {name: [tmp_path / name] for name in ("base", "arm")}, tmp_path / "run", **options)
    records = RunFolder(tmp_path / "run").records().sort("arm", "index")
    return {name: records.filter(pl.col("arm") == name)["open_correct"].to_list() for name in ("base", "arm")}


@pytest.mark.parametrize("base", [("flexible", "strict"), ("strict", "flexible"), ("flexible",), ("strict",)])
def test_a_compressed_model_takes_the_filter_of_base(tmp_path: Path, base: tuple[str, ...]) -> None:
    write(tmp_path / "base", base)
    for number, arm in enumerate([("flexible", "strict"), ("strict", "flexible")]):
        write(tmp_path / "arm", arm)
        place = tmp_path / str(number)
        place.mkdir()
        for name in ("base", "arm"):
            (place / name).symlink_to(tmp_path / name)
        assert imported(place) == {name: [RIGHT[base[0]]] * COUNT for name in ("base", "arm")}
        study = yaml.safe_load((place / "run" / "study.yaml").read_text())
        files = study["provenance"]["imported"]["files"]
        for name in ("base", "arm"):
            assert [file["filter"] for file in files[name]] == [base[0], "none"]


def test_the_import_shows_the_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("base", "arm"):
        write(tmp_path / name, ("flexible", "strict"))
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "import",
                "lm-eval",
                *(str(tmp_path / n) for n in ("base", "arm")),
                "--out",
                str(tmp_path / "run"),
            ]
        )
    assert not stopped.value.code
    assert "flexible (of flexible, strict) in gen; none in mc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("base", "arm", "given", "says"),
    [
        (("flexible", "strict"), ("strict",), None, r"a filter that both have: --filter strict"),
        (("flexible",), ("strict",), None, r"no --filter is in both"),
        (
            ("flexible", "strict"),
            ("strict",),
            "flexible",
            r"through the filter flexible .* arm through strict",
        ),
        (("strict",), ("strict", "flexible"), "flexible", r"a filter that both have: --filter strict"),
    ],
)
def test_models_of_other_filters_are_refused(
    tmp_path: Path, base: tuple[str, ...], arm: tuple[str, ...], given: str | None, says: str
) -> None:
    write(tmp_path / "base", base)
    write(tmp_path / "arm", arm)
    with pytest.raises(DataError, match=says):
        imported(tmp_path, filter_name=given)
    assert not (tmp_path / "run").exists()
    if "--filter strict" in says:
        assert imported(tmp_path, filter_name="strict") == {n: [False] * COUNT for n in ("base", "arm")}


def test_each_task_takes_the_filter_of_its_own_counterpart(tmp_path: Path) -> None:
    """Whatever files are called: of two generation tasks each is known by its questions."""

    def two(folder: Path, names: Sequence[str], filters: Sequence[Sequence[str]]) -> list[Path]:
        written = []
        for part, (name, mine) in enumerate(zip(names, filters, strict=True)):
            rows = [
                open_sample(n, "x", True, filter=each) for n in range(part * 6, part * 6 + 6) for each in mine
            ]
            written.append(write_lines(folder / f"{name}.jsonl", rows))
        return written

    base = two(tmp_path / "base", ["a", "b"], [("flexible", "strict"), ("strict", "flexible")])
    arm = two(tmp_path / "arm", ["b", "a"], [("strict", "flexible"), ("flexible", "strict")])
    found = read_logs("lm-eval", {"base": base, "arm": arm}).files
    assert [file.filter for file in found["arm"]] == ["flexible", "strict"]
    same = read_lm_eval(base[0])
    assert same is not None
    assert counterpart(found["base"], same) is found["base"][0]
    other = read_lm_eval(write_lines(tmp_path / "other.jsonl", [open_sample(40, "x", True)]))
    assert other is not None
    assert counterpart(found["base"], other) is None


def metrics(**values: float) -> Callable[[dict[str, Any]], None]:
    def change(row: dict[str, Any]) -> None:
        del row["exact_match"]
        row.update(values, metrics=list(values))

    return change


def test_the_metric_of_base_grades_every_model(tmp_path: Path) -> None:
    write(tmp_path / "base", change=metrics(em=1.0))
    # `contains` would come first.
    write(tmp_path / "arm", change=metrics(contains=0.0, em=1.0))
    assert imported(tmp_path) == {name: [True] * COUNT for name in ("base", "arm")}


def test_a_model_without_the_metric_of_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "base", change=metrics(em=1.0))
    write(tmp_path / "arm", change=metrics(acc=0.0))
    with pytest.raises(DataError, match=r"graded by em, and arm's log has no em \(it has acc\)"):
        imported(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_no_mark_grades_nobody(tmp_path: Path) -> None:
    """Base is always right by it, the arm half right: both have said the gold answer."""
    write(tmp_path / "base", change=metrics(em=1.0))
    write(tmp_path / "arm", change=metrics(em=0.5))
    assert imported(tmp_path) == {name: [True] * COUNT for name in ("base", "arm")}


def test_one_question_without_its_metric_is_not_graded_by_another(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        if row["doc"]["question"] == "Who founded Place3?":
            row["exact_match"] = float("nan")

    write(tmp_path / "base")
    write(tmp_path / "arm", change=change)
    assert imported(tmp_path)["arm"] == [True] * 3 + [None] + [True] * (COUNT - 4)


@pytest.mark.parametrize("form", ["open", "choice"])
def test_other_gold_answers_are_refused(tmp_path: Path, form: str) -> None:
    for name in ("base", "arm"):
        write(tmp_path / name)
    file = tmp_path / "arm" / f"samples_{'gen' if form == 'open' else 'mc'}_{DATE}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["target"] = "1"
        row["doc"]["answers"] = ["nobody"]
    write_lines(file, rows)
    with pytest.raises(
        DataError, match=f"different gold answers from base's in {COUNT} of {COUNT} {form} questions"
    ):
        imported(tmp_path)


def test_models_that_lighteval_graded_by_other_metrics_are_refused(tmp_path: Path) -> None:
    for name, metric in (("base", "em"), ("arm", "acc")):
        (tmp_path / name).mkdir()
        for task, choice in (("gen", False), ("mc", True)):
            rows = [detail(n, choice=choice, right=True) for n in range(COUNT)]
            for row in rows:
                row["metric"] = {"acc": 1.0} if choice else {metric: float(name == "base")}
            Dataset.from_list(rows).to_parquet(str(tmp_path / name / f"details_{task}|0_{DATE}.parquet"))
    models = {name: [tmp_path / name] for name in ("base", "arm")}
    with pytest.raises(DataError, match=r"graded by em, and arm's log has no em \(it has acc\)"):
        import_run("lighteval", models, tmp_path / "run")
