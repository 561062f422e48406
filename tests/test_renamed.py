"""Old names are read: in the folder of an earlier run without a word, elsewhere with a note that names the new one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import anomia as package
from anomia import renamed
from anomia.errors import RunError, StudyError
from anomia.matrix import read_matrix
from anomia.measure import measures
from anomia.measure.figures import lookup
from anomia.measure.gate import check_run, read_limits
from anomia.measure.measures import MEASURES, oracle_with_seed, parse
from anomia.measure.results import read_results, results_json
from anomia.models.difference import KINDS
from anomia.notes import read_differences
from anomia.probe.ask import Ask, RankTarget
from anomia.probe.asked import prompt_hash
from anomia.records import ITEM_SCHEMA, SCHEMA, read_rows, write_rows
from anomia.renamed import RenamedWarning
from anomia.report.export import export_run
from anomia.report.page.build import write_report
from anomia.report.server_rows import Filter, Rows
from anomia.run_folder import RunFolder
from anomia.running.execute import run_matrix
from anomia.running.progress import PlainProgress
from anomia.study import Study, read_study, write_study
from tests.command import anomia
from tests.conftest import entry
from tests.report.synthetic import write_run

OLD = {new: old for old, new in renamed.COLUMNS.items()}
OLD_MEASURES = {
    "accuracy/reach_greedy": "accuracy/oracle_greedy",
    "accuracy/reach_samples_seed_43": "accuracy/oracle_samples_seed_43",
    "before/accuracy/reach_beams": "before/accuracy/oracle_beams",
    "drop/reach_samples": "drop/oracle_samples",
    "recovery/beams/foil": "recovery/beams/control",
    "recovery/samples/foil_newly_broken": "recovery/samples/control_newly_broken",
    "recovery_over_foil/beams": "recovery_over_control/beams",
    "recovery_over_foil/samples/failed_before": "recovery_over_control/samples/failed_before",
    "divergence/same_top": "divergence/top1_agreement",
}


def as_an_earlier_version_wrote(run: Path) -> Path:
    """Takes the names of columns and settings back to the old ones."""
    for file, schema in [
        (RunFolder(run).items_file, ITEM_SCHEMA),
        *((file, SCHEMA) for file in RunFolder(run).record_files()),
    ]:
        rows = [
            {OLD.get(key, key): value for key, value in row.items()} for row in read_rows(file).to_dicts()
        ]
        write_rows(rows, file, {OLD.get(key, key): kind for key, kind in schema.items()})
        assert "foil" in pl.read_parquet(file).columns
    study = RunFolder(run).study_file
    study.write_text(study.read_text("utf-8").replace("oracle_limit", "reach_limit"), "utf-8")
    return run


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """The same run as this version and as an earlier one wrote it."""
    now, before = (
        write_run(tmp_path / name / "run", languages=("english", "thai"), items=24, oracle_limit=12)
        for name in ("now", "before")
    )
    return now, as_an_earlier_version_wrote(before)


def test_an_earlier_run_gives_the_same_figures_tables_gate_and_rows(both: tuple[Path, Path]) -> None:
    now, before = both
    assert RunFolder(before).records().equals(RunFolder(now).records())
    assert RunFolder(before).items().equals(RunFolder(now).items())
    results = [read_results(run) for run in both]
    old, new = (json.dumps(results_json(each), sort_keys=True) for each in results)
    assert old == new
    gates = [check_run(each, read_limits(max_gap=0.2)) for each in results]
    assert gates[0] == gates[1]
    for ending in ("csv", "jsonl", "parquet"):
        files = [run.parent / f"rows.{ending}" for run in both]
        assert export_run(now, files[0]) == export_run(before, files[1])
        assert files[0].read_bytes() == files[1].read_bytes()
    assert "control_rank" in pl.read_parquet(files[0]).columns
    tables = [write_report([run], run.parent / "report").page.parent / "tables" for run in both]
    for table in tables[0].iterdir():
        assert table.read_bytes() == (tables[1] / table.name).read_bytes()


def test_an_earlier_run_is_served_also_where_this_version_went_on(
    both: tuple[Path, Path], tmp_path: Path
) -> None:
    now, before = both
    # One file of an earlier version, one of this one.
    file = RunFolder(before).record_files()[0]
    rows = read_rows(file)
    mine = rows["language"] == "thai"
    write_rows(rows.filter(mine).to_dicts(), file.with_name("later.parquet"))
    old = {OLD.get(key, key): kind for key, kind in SCHEMA.items()}
    write_rows(rows.filter(~mine).rename(OLD).to_dicts(), file, old)
    assert RunFolder(before).records().equals(RunFolder(now).records())
    served = []
    for run in both:
        scratch = tmp_path / f"scratch-{run.parent.name}"
        scratch.mkdir()
        opened = Rows(run.resolve(), scratch)
        served.append([opened.item(row["number"]) for row in opened.page(Filter(), 0, 500)])
        opened.close()
    assert served[0] == served[1]
    assert all(item["control"] for item in served[0])


def test_some_columns_of_an_earlier_version(both: tuple[Path, Path]) -> None:
    for run in both:
        rows = read_rows(RunFolder(run).record_files()[0], ["arm", "control_rank"])
        assert rows.columns == ["arm", "control_rank"]


def test_an_earlier_run_is_resumed_and_reused(
    write_jsonl: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "base": str(model_folder), "arms": ["magnitude:0.5"], "limit": 3, "max_new_tokens": 2, "num_samples": 2,
        "data": f"jsonl:{write_jsonl([entry(n) for n in range(8)])}", "oracle_limit": 2, "noise_items": 0,
        "dtype": "float32",
    }  # fmt: skip
    said: list[str] = []

    def measure(out: Path, **more: Any) -> pl.DataFrame:
        run_matrix(read_matrix(None, settings), out, progress=PlainProgress(said.append), **more)
        return RunFolder(out).records()

    out = tmp_path / "run"
    before = measure(out)
    as_an_earlier_version_wrote(out)
    for file in RunFolder(out).record_files():
        if file.name.startswith("magnitude"):
            file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure(out).equals(before)
        reused = measure(tmp_path / "another", reuse=[as_an_earlier_version_wrote(out)])
        assert read_study(RunFolder(out).study_file, {}) == Study.model_validate(settings)
    assert reused.equals(before)
    assert any("base's 3 items are reused from" in line for line in said)
    settings["oracle_limit"] = 3
    with pytest.raises(RunError, match=r"differs in oracle_limit"):
        measure(out)


def test_hashes_of_what_was_asked_are_those_of_earlier_versions() -> None:
    targets = {
        "gold": RankTarget((1, 2), 3),
        "control": RankTarget((1, 2), 4),
        "control_distinct": RankTarget((1, 2, 4), 5),
    }
    assert prompt_hash(Ask("a", targets=targets)) == "c244263541c26045"


@pytest.mark.parametrize(("old", "new"), OLD_MEASURES.items())
def test_a_measure_is_found_by_its_old_name(old: str, new: str) -> None:
    with pytest.warns(RenamedWarning, match=new.removeprefix("before/")):
        assert parse(old) == new
    assert parse(new) == new


def test_every_measure_that_was_renamed_has_one_old_name() -> None:
    changed = {str(measure) for measure in MEASURES.values() if "control" in measure.of.split("/")[-1][:7]}
    changed |= set(measures.recovery_over_control) | {
        measures.divergence("top1_agreement"),
        oracle_with_seed("samples", 3),
    }
    changed |= {name for name in MEASURES if name.partition("/")[2].startswith("oracle_")}
    words = {"control": "foil", "oracle": "reach", "top1_agreement": "same_top"}
    for name in changed:
        family, _, of = name.partition("/")
        for new, old in words.items():
            of = of.replace(new, old)
        old = f"{family.replace('over_control', 'over_foil')}/{of}"
        assert old != name
        assert renamed.measure(old) == name
    assert all(renamed.measure(name) == name for name in MEASURES)


def test_an_unknown_measure_still_raises_with_the_nearest() -> None:
    for name in ("accuracy/reach_beam", "recovery/beams/foli", "divergence/same_tpo"):
        with pytest.raises(RunError, match="did you mean") as raised:
            parse(name)
        assert repr(name) in str(raised.value)


def test_python_reads_figures_by_their_old_names(both: tuple[Path, Path]) -> None:
    run = package.open_run(both[1])
    arm = run.arms[0]
    with pytest.warns(
        DeprecationWarning, match="recovery/samples/foil is now recovery/samples/control"
    ) as told:
        found = run.estimate("recovery/samples/foil", arm)
    assert told[0].filename == __file__
    assert found is not None
    assert found == run.estimate("recovery/samples/control", arm)
    with pytest.warns(RenamedWarning):
        assert lookup(run.results.diagnosis.figures)[arm, "drop/reach_beams", "pooled"] is not None
    assert not [name for name in run.estimates()["measure"].unique() if renamed.measure(name) != name]
    with pytest.raises(RunError, match="did you mean"):
        run.estimate("recovery/sample/foil", arm)


def test_settings_of_python_are_read_under_old_names() -> None:
    with pytest.warns(DeprecationWarning, match="reach_limit is now oracle_limit") as told:
        study = Study(base="x", arms=("int8",), reach_limit=7)  # type: ignore[call-arg]
    assert (study.oracle_limit, told[0].filename) == (7, __file__)
    with pytest.warns(RenamedWarning):
        assert read_study(None, {"base": "x", "arms": ["int8"], "reach_limit": 7}) == study
    with pytest.raises(StudyError, match="unknown key 'reach_limit'; did you mean 'oracle_limit'"):
        read_study(None, {"base": "x", "arms": ["int8"], "reach_limit": 7, "oracle_limit": 7})


def test_study_files_are_read_under_old_names(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("base: [x, y]\narms: [int8]\nreach_limit: 7\n")
    with pytest.warns(RenamedWarning, match="reach_limit is now oracle_limit") as told:
        matrix = read_matrix(file, {})
    assert len(told) == 1
    assert [study.oracle_limit for study in matrix.studies] == [7, 7]
    # Settings that are given with it win, whatever they are called.
    with pytest.warns(RenamedWarning):
        assert read_matrix(file, {"oracle_limit": 8}).studies[0].oracle_limit == 8


def test_files_that_a_run_wrote_are_read_without_a_note(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    study = Study(base="x", arms=("int8",), oracle_limit=7)
    write_study(study, file, {"dtype": "float32"})
    file.write_text(file.read_text("utf-8").replace("oracle_limit", "reach_limit"), "utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_study(file, {}) == study
        assert read_matrix(file, {}).studies == [study]
        assert RunFolder(tmp_path).study()["oracle_limit"] == 7


def test_differences_of_earlier_runs_are_of_the_kinds_of_today(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    texts = {"what": "dtype", "base": "float32", "other": "bfloat16", "why": "it rounds"}
    rows = [{**texts, "kind": kind} for kind in ("told", "confounding")]
    run.differences.of_arm("a").write({"arm": "a", "differences": rows})
    assert [row.kind for row in read_differences(run)["a"]] == ["noted", "confounding"]
    assert {row.part for row in read_differences(run)["a"]} == {"model"}
    assert set(renamed.KINDS.values()) <= set(KINDS)


def test_the_command_line_says_it_once(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("base: [x, x]\narms: [hodl]\nreach_limit: 7\n")
    done = anomia("run", file)
    assert done.returncode == 2
    assert (
        done.stderr.count(
            "note: reach_limit is now oracle_limit; the old name will be removed in the next release\n"
        )
        == 1
    )


def test_old_flags_of_plan_are_accepted_and_hidden() -> None:
    assumed = ("--open", "0.45,0.35", "--choice", "0.90,0.87")
    new = anomia("plan", "--items-needed", *assumed, "--target-power", "0.9")
    assert (new.returncode, new.stderr) == (0, "")
    assert "Items needed for 90 % power" in new.stdout
    shown = anomia("plan", "--help").stdout
    for old_name in ("--chance", "--desired-power"):
        old = anomia("plan", "--power", *assumed, f"{old_name}=0.9")
        assert (old.returncode, old.stdout) == (0, new.stdout)
        assert old.stderr.splitlines() == [
            "note: --power is now --items-needed; the old name will be removed in the next release",
            f"note: {old_name} is now --target-power; the old name will be removed in the next release",
        ]
    for name, replacement in renamed.OPTIONS.items():
        assert replacement in shown
        assert name not in shown.replace("--target-power", "")


def test_probes_by_the_words_of_the_field() -> None:
    study = Study(
        base="x", arms=("int8",), probes=("free_form", "multiple_choice", "multiple_choice_hard", "rank")
    )
    assert study.probes == ("open", "choice", "choice_hard", "rank")
    assert study == Study(base="x", arms=("int8",), probes=("rank", "choice_hard"))
    for wrong, near in (
        ("free_from", "free_form"),
        ("multiple_choise", "multiple_choice"),
        ("chioce", "choice"),
    ):
        with pytest.raises(StudyError, match=f"unknown probe '{wrong}'; did you mean '{near}'"):
            read_study(None, {"base": "x", "arms": ["int8"], "probes": [wrong]})


def test_no_old_name_is_also_a_new_one() -> None:
    assert not renamed.COLUMNS.keys() & (SCHEMA.keys() | ITEM_SCHEMA.keys())
    assert set(renamed.COLUMNS.values()) <= SCHEMA.keys()
    assert set(renamed.SETTINGS.values()) <= Study.model_fields.keys()
    assert not renamed.SETTINGS.keys() & Study.model_fields.keys()
