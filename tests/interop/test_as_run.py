"""Other harnesses' samples become a run that every command reads, with the fates that were planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from anomia.cli import main
from anomia.errors import AnomiaError, DataError, RunError
from anomia.interop.arms import models_from
from anomia.interop.as_run import import_run
from anomia.measure.figures import find
from anomia.measure.frame import POOLED
from anomia.measure.recognition import with_fates
from anomia.measure.results import read_results, results_json
from anomia.run_folder import RunFolder
from tests.interop.logs import (
    choice_sample,
    open_sample,
    scored_sample,
    write_details,
    write_lines,
    write_model,
)

EVERY = set(range(24))
# Base says the first twenty; the arm still says twelve of them, and recognises all but two.
SAID = {"base": set(range(20)), "arm": set(range(12))}
PICKED = {"base": EVERY, "arm": EVERY - {18, 19}}
WRITERS: dict[str, Callable[..., Path]] = {"lm-eval": write_model, "lighteval": write_details}


@pytest.fixture(scope="module", params=list(WRITERS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    for name in ("base", "arm"):
        WRITERS[request.param](folder / name, said=SAID[name], picked=PICKED[name])
    models = models_from(request.param, [folder / "base", folder / "arm"], [], [])
    found = import_run(request.param, models, folder / "run")
    assert (found.questions, found.arms) == (24, ("arm",))
    assert set(found.graded_by.values()) == {"acc", "em" if request.param == "lighteval" else "exact_match"}
    return folder / "run"


def test_fates_are_those_that_were_planted(run: Path) -> None:
    records = with_fates(RunFolder(run).records()).filter(pl.col("arm") == "arm")
    counts = dict(records["fate"].value_counts().iter_rows())
    assert counts == {"kept": 12, "choice_only": 6, "lost": 2, None: 4}
    found = results_json(read_results(run))
    assert next(row for row in found["fates"] if row["scope"] == POOLED)["choice_only"] == 6
    tests = {row["measure"]: row for row in found["tests"] if row["scope"] == POOLED}
    assert tests["open changed"]["changed"] == 8
    assert tests["open changed"]["p_value"] == pytest.approx(2 / 2**8)
    gap = find(read_results(run).diagnosis.figures, "arm", "gap/choice", POOLED)
    assert gap is not None
    assert gap.value == pytest.approx(8 / 20 - (2 / 24) / 0.75)


def test_items_and_texts_are_kept(run: Path) -> None:
    items = RunFolder(run).items().sort("index")
    assert items["options_standard"][3].to_list() == ["Founder3", "Alice", "Bob", "Carol"]
    assert items["answers"][3].to_list()[0] == "Founder3"
    assert "Place3" in items["question"][3]
    row = (
        RunFolder(run).records().filter((pl.col("arm") == "arm") & (pl.col("index") == 19)).row(0, named=True)
    )
    assert row["open_text"].strip() == "nobody"
    assert (row["choice_pick"], row["choice_correct"], row["open_correct"]) == ("Alice", False, False)
    assert row["gold_rank"] is None


def test_every_command_reads_it(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main_ok("show", str(run))
    main_ok("items", str(run), "--fate", "choice_only")
    assert "base answered" in capsys.readouterr().out
    main_ok("export", str(run), str(tmp_path / "rows.csv"))
    main_ok("plan", str(run), "--items-needed")
    with pytest.raises(SystemExit) as stopped:
        main(["gate", str(run)])
    assert stopped.value.code == 1
    study = yaml.safe_load((run / "study.yaml").read_text())
    assert len(study["provenance"]["imported"]["files"]["base"]) == 2


def main_ok(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert not stopped.value.code


def test_the_summary_tells_the_languages_that_names_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("base", "arm"):
        for file in write_model(tmp_path / name, said=SAID[name], picked=PICKED[name]).iterdir():
            file.rename(
                file.with_name(file.name.replace("towns_gen", "xquad_ru").replace("towns_mc", "agieval_ar"))
            )
    main_ok(
        "import", "lm-eval", str(tmp_path / "base"), str(tmp_path / "arm"), "--out", str(tmp_path / "run")
    )
    assert "languages, from the task names: xquad_ru russian;" in capsys.readouterr().out
    assert set(RunFolder(tmp_path / "run").items()["language"]) == {"russian"}
    given = ["--language", "th", "--out", str(tmp_path / "again")]
    main_ok("import", "lm-eval", str(tmp_path / "base"), str(tmp_path / "arm"), *given)
    assert "from the task names" not in capsys.readouterr().out
    assert set(RunFolder(tmp_path / "again").records()["language"]) == {"thai"}


def test_files_that_hold_no_answers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("base", "arm"):
        folder = write_model(tmp_path / name, said=SAID[name], picked=PICKED[name])
        write_lines(folder / "samples_lambada.jsonl", [scored_sample(n) for n in range(3)])
    main_ok(
        "import", "lm-eval", str(tmp_path / "base"), str(tmp_path / "arm"), "--out", str(tmp_path / "run")
    )
    assert f"no answers and no choices in: {tmp_path}/base/samples_lambada.jsonl, " in capsys.readouterr().out
    assert set(with_fates(RunFolder(tmp_path / "run").records())["fate"].drop_nulls()) == {
        "kept",
        "choice_only",
        "lost",
    }


def test_documents_that_differ_are_joined_by_their_question(tmp_path: Path) -> None:
    for name in ("base", "arm"):
        folder = write_model(tmp_path / name, said=SAID[name], picked=PICKED[name])
        file = next(folder.glob("*mc*"))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["doc"] |= {"choices": "added by this task"}
            row["doc_hash"] = f"another {row['doc_id']}"
        write_lines(file, rows[::-1])
    models = {name: [tmp_path / name] for name in ("base", "arm")}
    assert import_run("lm-eval", models, tmp_path / "run").by == "text"
    records = with_fates(RunFolder(tmp_path / "run").records())
    assert (records["fate"] == "choice_only").sum() == 6


def test_ids_join_only_where_the_answers_agree(tmp_path: Path) -> None:
    def write(folder: Path, *, gold: str) -> None:
        opened, chosen = [], []
        for n in range(12):
            doc = {"id": n, "text": f"{n}", "answers": [f"Founder{n}"]}
            opened.append(open_sample(n, "x", False, doc=doc, doc_hash=f"o{n}"))
            chosen.append(choice_sample(n, True, doc={"id": n, "stem": gold}, doc_hash=f"c{n}", target=gold))
        write_lines(folder / "samples_a.jsonl", opened)
        write_lines(folder / "samples_b.jsonl", chosen)

    write(tmp_path / "same", gold="0")
    found = import_run("lm-eval", {n: [tmp_path / "same"] for n in ("base", "arm")}, tmp_path / "run")
    assert found.by == "id"
    write(tmp_path / "other", gold="1")
    with pytest.raises(DataError, match="share no question"):
        import_run("lm-eval", {n: [tmp_path / "other"] for n in ("base", "arm")}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_missing_is_counted_and_said(tmp_path: Path) -> None:
    write_model(tmp_path / "base", said=EVERY, picked=EVERY)
    write_model(tmp_path / "arm", said=EVERY, picked=EVERY, count=20)
    file = next((tmp_path / "base").glob("*gen*"))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    write_lines(file, [*rows[1:], rows[5]])
    found = import_run("lm-eval", {n: [tmp_path / n] for n in ("base", "arm")}, tmp_path / "run")
    # Asked twice: 5. Without its generation: 0 and 5. Not answered by the arm: 20 to 23.
    assert found.excluded == {"asked more than once": 2, "one form only": 2, "not answered by every model": 4}
    assert found.questions == 18


def test_faults_are_one_message(tmp_path: Path) -> None:
    write_model(tmp_path / "base", said=EVERY, picked=EVERY)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").touch()
    models = {n: [tmp_path / "base"] for n in ("base", "arm")}
    with pytest.raises(RunError, match="not empty"):
        import_run("lm-eval", models, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no samples_\*\.jsonl"):
        import_run("lm-eval", {**models, "arm": [tmp_path / "empty"]}, tmp_path / "out")
    only = next((tmp_path / "base").glob("*mc*"))
    with pytest.raises(DataError, match="no samples of a generation task"):
        import_run("lm-eval", {**models, "arm": [only]}, tmp_path / "out")
    with pytest.raises(AnomiaError, match="can't be read"):
        import_run("lm-eval", {**models, "arm": [tmp_path / "nothing.jsonl"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": {"gen_args_0": {"arg_0": "another prompt", "arg_1": {"until": ["\n"], "do_sample": False}}}},
        {"arguments": {"gen_args_0": {"arg_0": None, "arg_1": {"until": ["."], "do_sample": True, "temperature": 1.5}}}},
        {"arguments": None, "prompt_hash": "another"},
    ],
    ids=["prompt", "settings", "hash"],
)  # fmt: skip
def test_logs_of_other_prompts_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the arm then loses may be the prompt."""

    def one(number: int, mine: dict[str, Any]) -> dict[str, Any]:
        row = open_sample(number, f" Founder{number}", True)
        arguments = mine.get("arguments")
        if arguments and arguments["gen_args_0"]["arg_0"] is None:
            prompt = row["arguments"]["gen_args_0"]["arg_0"]
            mine = {"arguments": {"gen_args_0": {**arguments["gen_args_0"], "arg_0": prompt}}}
        return row | mine

    without = {"arguments": None} if changes.get("prompt_hash") else {}
    for name, mine in (("base", without), ("arm", changes)):
        write_lines(tmp_path / name / "samples_towns_gen_2026.jsonl", [one(n, mine) for n in range(24)])
        write_lines(
            tmp_path / name / "samples_towns_mc_2026.jsonl", [choice_sample(n, True) for n in range(24)]
        )
    models = {name: [tmp_path / name] for name in ("base", "arm")}
    with pytest.raises(
        DataError, match="arm was sent different texts from base's in 24 of 24 open questions"
    ):
        import_run("lm-eval", models, tmp_path / "run")
