"""`anomia items` as a user and a program meet it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from anomia.records import write_rows
from anomia.run_folder import RunFolder
from tests.command import anomia
from tests.report.synthetic import write_run

ARMS = ("wanda:0.5", "checkpoint:makers/small", "checkpoint:/models/tiny", "checkpoint:/other/tiny")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("items") / "run", languages=("english",), items=6, arms=ARMS)


def test_one_json_object_a_line(run: Path) -> None:
    done = anomia("items", run, "--json", "--limit", "3", "--arm", "wanda:0.5")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert line["arm"] == "wanda:0.5"
        assert set(line) == {"item", "arm", "fate", "base", "compressed"}
        assert line["item"]["item_id"] == line["base"]["item_id"] == line["compressed"]["item_id"]
        assert line["item"]["question"]
        assert line["base"]["open_text"] != line["compressed"]["open_text"]


def test_what_is_no_number_is_null_in_json(run: Path, tmp_path: Path) -> None:
    bad = write_run(tmp_path / "bad", languages=("english",), items=2, arms=("wanda:0.5",))
    frame = RunFolder(bad).records().with_columns(pl.lit(float("nan")).alias("gold_log_prob"))
    write_rows(frame.to_dicts(), bad / "records" / "all.parquet")
    line = json.loads(anomia("items", bad, "--json", "--limit", "1").stdout, parse_constant=pytest.fail)
    assert line["base"]["gold_log_prob"] is None


def test_one_item_by_its_id(run: Path) -> None:
    done = anomia("items", run, "--id", "english-0004")
    assert "english-0004" in done.stdout
    assert "1 of 1 items" in done.stdout
    wrong = anomia("items", run, "--id", "english-0044")
    assert (wrong.returncode, "did you mean 'english-0004'" in " ".join(wrong.stderr.split())) == (2, True)


def test_a_checkpoint_by_its_model(run: Path) -> None:
    for name in ("makers/small", "small", "checkpoint:makers/small"):
        line = anomia("items", run, "--json", "--limit", "1", "--arm", name)
        assert json.loads(line.stdout)["arm"] == "checkpoint:makers/small"
    assert (
        json.loads(anomia("items", run, "--json", "--limit", "1", "--arm", "/other/tiny").stdout)["arm"]
        == ARMS[3]
    )
    several = anomia("items", run, "--arm", "tiny")
    assert several.returncode == 2
    assert "may be any of" in several.stderr
    unknown = anomia("items", run, "--arm", "makers/smal")
    assert "did you mean 'makers/small'" in " ".join(unknown.stderr.split())


def test_the_arm_shown_by_default_is_the_first_compressed_model_of_the_study(
    run: Path, tmp_path: Path
) -> None:
    def shown(where: Path) -> str:
        return str(json.loads(anomia("items", where, "--json", "--limit", "1").stdout)["arm"])

    assert shown(run) == "wanda:0.5"
    arms = ("null:float32", "wanda:0.5", "gptq:4")
    assert shown(write_run(tmp_path / "one", languages=("english",), items=2, arms=arms)) == "wanda:0.5"
    # Without a compressed model, there is nothing else to show.
    only = write_run(tmp_path / "two", languages=("english",), items=2, arms=("null:float32", "null:batch=2"))
    assert shown(only) == "null:float32"
