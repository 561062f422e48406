"""Which files of a folder count, and the folders that are refused: those of several models."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from anomia.errors import DataError
from anomia.interop.as_run import import_run
from anomia.interop.sources import read_logs
from anomia.run_folder import RunFolder
from tests.interop.logs import open_sample, scored_sample, write_details, write_lines, write_model

EVERY = set(range(24))


def test_the_newest_log_of_a_folder_counts(tmp_path: Path) -> None:
    write_model(tmp_path / "base", said=EVERY, picked=EVERY)
    write_model(tmp_path / "arm" / "model", said=EVERY, picked=EVERY)
    newer = [open_sample(n, "nobody", False) for n in range(24)]
    write_lines(tmp_path / "arm" / "model" / "samples_towns_gen_2026-02-01T00-00-00.000001.jsonl", newer)
    found = import_run("lm-eval", {"base": [tmp_path / "base"], "arm": [tmp_path / "arm"]}, tmp_path / "run")
    assert [path.name.rpartition("_")[0] for path in found.older] == ["samples_towns_gen"]
    assert found.older[0].parent.parent.name == "arm"
    records = RunFolder(tmp_path / "run").records()
    assert records.filter(pl.col("arm") == "arm")["open_correct"].sum() == 0


def test_a_folder_of_several_models_is_refused(tmp_path: Path) -> None:
    for name in ("org__base", "org__int4"):
        write_model(tmp_path / "out" / name, said=EVERY, picked=EVERY)
    # Even where all the newest logs are one model's.
    write_lines(tmp_path / "out" / "org__int4" / "samples_towns_gen_2026-02-01T00-00-00.1.jsonl", [])
    write_lines(tmp_path / "out" / "org__int4" / "samples_towns_mc_2026-02-01T00-00-00.1.jsonl", [])
    with pytest.raises(DataError, match=r"2 model folders: .*/org__base, .*/org__int4; give each"):
        read_logs("lm-eval", {"base": [tmp_path / "out"]})
    assert len(read_logs("lm-eval", {"base": [tmp_path / "out" / "org__base"]}).files["base"]) == 2


def test_dates_of_one_model_are_no_models(tmp_path: Path) -> None:
    model = tmp_path / "out" / "details" / "org" / "model"
    first, second = model / "2026-01-31T12-00-00.123456", model / "2026-02-01T08-00-00.5"
    write_details(first, said=EVERY, picked=EVERY)
    second.mkdir()
    mc = next(first.glob("*mc*"))
    mc.rename(second / mc.name.replace(first.name, second.name))
    found = read_logs("lighteval", {"base": [tmp_path / "out"]})
    assert {file.form: file.path.parent for file in found.files["base"]} == {"open": first, "choice": second}
    write_details(model.with_name("other") / first.name, said=EVERY, picked=EVERY)
    with pytest.raises(DataError, match=r"2 model folders: .*/org/model, .*/org/other; give each"):
        read_logs("lighteval", {"base": [tmp_path / "out"]})


def test_a_file_that_only_scores_is_refused_by_name_and_passed_over_in_a_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "base", said=EVERY, picked=EVERY)
    scored = write_lines(folder / "samples_lambada.jsonl", [scored_sample(n) for n in range(3)])
    with pytest.raises(DataError, match=r"samples_lambada\.jsonl is of a task that only scores given texts"):
        read_logs("lm-eval", {"base": [scored]})
    found = read_logs("lm-eval", {"base": [folder]})
    assert (len(found.files["base"]), found.unused) == (2, [scored])


def test_languages_are_documents_then_names_and_what_is_given_first(tmp_path: Path) -> None:
    samples = [open_sample(0, "x", True), open_sample(1, "x", True, doc={"question": "?", "language": "sw"})]
    path = write_lines(tmp_path / "samples_xquad_ru.jsonl", samples)
    for given, languages, named in ((None, ["russian", "swahili"], "russian"), ("th", ["thai"] * 2, None)):
        file = read_logs("lm-eval", {"base": [path]}, language=given).files["base"][0]
        assert [sample.language for sample in file.samples] == languages
        assert file.named == named


def test_a_filter_that_no_task_has_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "base", said=EVERY, picked=EVERY)
    rows = [open_sample(n, "x", True, filter=name) for name in ("strict", "flexible") for n in range(3)]
    with pytest.raises(DataError, match="leave out --filter"):
        read_logs("lm-eval", {"base": [folder]}, filter_name="flexible")
    write_lines(folder / "samples_towns_gen_2026-02-01T00-00-00.1.jsonl", rows)
    found = read_logs("lm-eval", {"base": [folder]}, filter_name="flexible")
    assert sorted(str(file.filter) for file in found.files["base"]) == ["flexible", "none"]
