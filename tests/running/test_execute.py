"""From a study to records on a tiny model: complete, repeatable, resumable, and no fault spreads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.spec import parse_arm
from anomia.compress.steps import Prune
from anomia.errors import AnomiaError, RunError
from anomia.measure.results import read_results, results_json
from anomia.probes import CONTINUATION
from anomia.records import SCHEMA
from anomia.run_folder import RunFolder
from anomia.running import model, shard
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def run(study: Study, out: Path) -> pl.DataFrame:
    run_study(study, out, progress=PlainProgress(lambda text: None))
    return RunFolder(out).records()


def test_a_study_gives_one_full_row_for_each_arm_and_item(study: Study, tmp_path: Path) -> None:
    rows = run(study, tmp_path / "run")
    assert rows.group_by("arm", "language").len()["len"].to_list() == [6] * 6
    assert list(rows.columns) == list(SCHEMA)
    always = [
        name
        for name in rows.columns
        if not name.startswith(
            (
                "beam",
                "sample",
                "distribution",
                "kl",
                "top1",
                CONTINUATION,
                "open_score",
                "open_parts",
                "open_options",
                "choice_own",
                "options_own",
                "gold_own",
                "no_own_options",
            )
        )
    ]
    full = rows.select(always).null_count().row(0, named=True)
    assert {name for name, nulls in full.items() if nulls} <= {
        "control_distinct_rank", "control_distinct_rank_ties", "control_distinct_token_log_prob", "control_distinct_margin",
    }  # fmt: skip
    base, arms = rows.filter(pl.col("arm") == "base"), rows.filter(pl.col("arm") != "base")
    assert base["kl_from_base"].null_count() == len(base)
    assert arms["kl_from_base"].null_count() == 0
    assert (arms["kl_from_base"] > 0).all()
    for arm in ("base", "magnitude:0.5"):
        asked = rows.filter(pl.col("arm") == arm)
        assert asked.filter(pl.col("index") < 4)["beam_texts"].null_count() == 0
        assert asked.filter(pl.col("index") >= 4)["beam_texts"].null_count() == 4
    assert rows.filter(pl.col("sample_texts").is_not_null())[
        "sample_texts"
    ].list.len().unique().to_list() == [2]
    noise = json.loads((tmp_path / "run" / "noise.json").read_text())
    assert noise["items"] == 4
    assert {name: part["items"] for name, part in noise["languages"].items()} == {"english": 2, "swahili": 2}


def test_the_same_study_twice_gives_the_same_records(study: Study, tmp_path: Path) -> None:
    assert run(study, tmp_path / "one").equals(run(study, tmp_path / "two"))


def test_an_arm_without_a_change_is_base(study: Study, tmp_path: Path, model_folder: Path) -> None:
    rows = run(study.model_copy(update={"arms": (f"checkpoint:{model_folder}",)}), tmp_path / "run")
    one, two = (rows.filter(pl.col("arm").eq("base") == flag).drop("arm") for flag in (True, False))
    different = [name for name in one.columns if not one[name].equals(two[name], null_equal=True)]
    assert set(different) == {"kl_from_base", "top1_agrees", "distribution_tokens", "distribution_log_probs"}
    assert two["kl_from_base"].max() == pytest.approx(0, abs=1e-6)
    assert two["top1_agrees"].all()


def test_what_is_finished_is_not_done_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(study, tmp_path / "run")
    files = sorted((tmp_path / "run" / "records").glob("*.parquet"))
    lost = [file for file in files if "wanda" in file.name and "swahili" in file.name]
    stamps = {file: file.stat().st_mtime_ns for file in files if file not in lost}
    for file in lost:
        file.unlink()
    assert run(study, tmp_path / "run").equals(whole)
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}
    monkeypatch.setattr(
        "anomia.running.model.load_model", lambda *a, **k: pytest.fail("loaded a model for nothing")
    )
    assert run(study, tmp_path / "run").equals(whole)


def test_a_crash_between_shards_loses_nothing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(study, tmp_path / "whole")
    real, calls = shard.write_rows, []

    def crash(rows: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(rows, path)

    monkeypatch.setattr("anomia.running.shard.write_rows", crash)
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "run")
    assert len(list((tmp_path / "run" / "records").glob("*.parquet"))) == 3
    monkeypatch.undo()
    assert run(study, tmp_path / "run").equals(whole)


def test_a_folder_of_another_study_is_refused(study: Study, tmp_path: Path) -> None:
    run(study, tmp_path / "run")
    with pytest.raises(RunError, match=r"a different study \(it differs in limit\)"):
        run(study.model_copy(update={"limit": 5}), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not an Anomia run"):
        run(study, tmp_path / "mine")


def test_a_broken_arm_is_marked_and_the_others_go_on(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = model.compress_arm

    def poison(loaded: Any, steps: Any, *rest: Any) -> Any:
        report = real(loaded, steps, *rest)
        if str(steps[0]) == "magnitude:0.5":
            with torch.no_grad():
                loaded.model.model.layers[1].mlp.down_proj.weight[:] = float("inf")
        return report

    monkeypatch.setattr("anomia.running.model.compress_arm", poison)
    rows = run(study, tmp_path / "run")
    broken = rows.filter(pl.col("arm") == "magnitude:0.5")
    assert not broken["finite"].any()
    assert broken["open_correct"].null_count() == len(broken)
    assert rows.filter(pl.col("arm") == "wanda:0.5")["finite"].all()
    results = read_results(tmp_path / "run")
    assert results.broken == {"magnitude:0.5": 12}
    json.dumps(results_json(results), allow_nan=False)


def test_an_arm_that_cannot_be_made_is_reported_and_the_others_go_on(
    study: Study, damaged_folder: Path, tmp_path: Path
) -> None:
    damaged = f"checkpoint:{damaged_folder}"
    outcomes = run_study(
        study.model_copy(update={"arms": (damaged, "magnitude:0.5")}),
        tmp_path / "run",
        progress=PlainProgress(lambda text: None),
    )
    assert [bool(outcome.failed) for outcome in outcomes] == [False, True, False]
    assert set(RunFolder(tmp_path / "run").records()["arm"]) == {"base", "magnitude:0.5"}
    assert str(damaged_folder) in read_results(tmp_path / "run").failed[damaged]


def test_a_compressed_model_that_is_not_there_is_found_before_base_is_measured(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "anomia.running.model.load_model", lambda *a, **k: pytest.fail("loaded a model for nothing")
    )
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("/nowhere/at/all", "no folder"),
        (f"{tmp_path}/empty", "no config.json"),
        ("./x.gguf", "exist"),
    ):
        with pytest.raises(AnomiaError, match=says):
            run(study.model_copy(update={"arms": (f"checkpoint:{name}",)}), tmp_path / "run")
    assert not (tmp_path / "run" / "study.yaml").exists()


def test_base_that_cannot_be_loaded_ends_the_run_before_a_folder_is_made(
    study: Study, tmp_path: Path
) -> None:
    with pytest.raises(AnomiaError, match="nowhere"):
        run(study.model_copy(update={"base": "/nowhere/at/all"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tree_and_reference_engine_give_the_same_records(study: Study, tmp_path: Path) -> None:
    tree = run(study, tmp_path / "tree")
    plain = run(study.model_copy(update={"engine": "reference"}), tmp_path / "plain")
    for name, kind in tree.schema.items():
        one, two = tree[name], plain[name]
        if kind == pl.Float64:
            assert (one - two).abs().max() in (None, pytest.approx(0, abs=1e-4)), name
        elif kind == pl.List(pl.Float64):
            assert (one.explode() - two.explode()).abs().max() in (None, pytest.approx(0, abs=1e-4)), name
        else:
            assert one.equals(two, null_equal=True), name


def test_questions_that_changed_under_a_run_are_refused(study: Study, tmp_path: Path) -> None:
    run(study, tmp_path / "run")
    data = Path(study.data.removeprefix("jsonl:"))
    data.write_text(data.read_text().replace("Who founded", "Name the founder of"))
    with pytest.raises(RunError, match="different questions"):
        run(study, tmp_path / "run")


def test_a_base_model_that_changed_under_a_run_is_refused(
    study: Study, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    folder = tmp_path / "model"
    make_model(seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    study = study.model_copy(update={"base": str(folder), "arms": ("magnitude:0.5",)})
    run(study, tmp_path / "run")
    make_model(seed=2).save_pretrained(folder)
    next((tmp_path / "run" / "records").glob("base.*")).unlink()
    with pytest.raises(RunError, match="base was measured with different files"):
        run(study, tmp_path / "run")


def test_a_run_that_was_stopped_while_it_began_begins_again(study: Study, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "items.parquet").write_bytes(b"half")
    (tmp_path / "run" / "items.parquet.sha256").write_text("0")  # it is written first
    (tmp_path / "run" / ".study.yaml.part").touch()
    assert len(run(study, tmp_path / "run")) == 36


def test_a_batch_size_sensitivity_that_was_not_reached_is_measured_later(
    study: Study, tmp_path: Path
) -> None:
    run(study, tmp_path / "run")
    noise = tmp_path / "run" / "noise.json"
    before = noise.read_text()
    noise.unlink()
    run(study, tmp_path / "run")
    assert noise.read_text() == before


def test_a_base_without_finite_logits_ends_the_run(
    study: Study, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    sick = make_model()
    with torch.no_grad():
        sick.model.norm.weight[:] = float("nan")
    sick.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(AnomiaError, match="NaN or infinite for every item"):
        run(
            study.model_copy(update={"base": str(tmp_path / "model"), "engine": "reference"}),
            tmp_path / "run",
        )


def test_an_arm_with_a_vocabulary_of_its_own_is_measured_without_divergence(
    study: Study, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    folder = tmp_path / "model"
    make_model(seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    names = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"] = {name: n for n, name in enumerate([*names[:300], *reversed(names[300:])])}
    file.write_text(json.dumps(content))
    rows = run(study.model_copy(update={"arms": (f"checkpoint:{folder}",)}), tmp_path / "run")
    arm = rows.filter(pl.col("arm") != "base")
    assert arm["kl_from_base"].null_count() == len(arm)
    assert arm["open_text"].null_count() == 0


def test_a_model_with_few_positions_gets_shorter_passages(
    study: Study, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    make_model(max_position_embeddings=100).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    update = {
        "base": str(tmp_path / "model"),
        "arms": ("magnitude:0.5",),
        "probes": ("cued", "rank", "beams"),
    }
    rows = run(study.model_copy(update=update), tmp_path / "run")
    assert rows["truncated"].any()
    assert (rows["prompt_tokens"] + study.max_new_tokens <= 100).all()


def test_a_pruned_folder_as_a_checkpoint_gives_the_records_of_the_arm_in_place(
    study: Study, tmp_path: Path, model_folder: Path
) -> None:
    step = parse_arm("wanda:0.5").steps[0]
    assert isinstance(step, Prune)
    text = TextOptions(source="demo", samples=4, tokens=48, languages=("english", "swahili"))
    compress_folder(str(model_folder), tmp_path / "pruned", [step], FolderOptions(text=text))
    arms = ("wanda:0.5", f"checkpoint:{tmp_path / 'pruned'}")
    rows = run(study.model_copy(update={"arms": arms}), tmp_path / "run")
    in_place, saved = (rows.filter(pl.col("arm") == arm).drop("arm") for arm in arms)
    assert not in_place.drop("kl_from_base").equals(
        rows.filter(pl.col("arm") == "base").drop("arm", "kl_from_base")
    )
    assert in_place.equals(saved, null_equal=True)


def test_compressed_models_take_the_engine_of_their_base(
    study: Study,
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_model: Callable[..., Any],
    tokenizer: Any,
) -> None:
    seen = []
    choose = model.choose_engine

    def watch(model: Any, wanted: str, *, tried: bool = False) -> Any:
        seen.append((wanted, tried))
        return choose(model, wanted, tried=tried)

    monkeypatch.setattr("anomia.running.model.choose_engine", watch)
    make_model(num_hidden_layers=1).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    arms = ("wanda:0.5", f"checkpoint:{model_folder}", f"checkpoint:{tmp_path / 'other'}")
    study = study.model_copy(update={"arms": arms})
    run(study, tmp_path / "run")
    assert seen == [("auto", False), ("tree", True), ("tree", True), ("auto", False)]
    for file in (tmp_path / "run" / "records").glob("wanda*"):
        file.unlink()
    run(study, tmp_path / "run")
    assert seen[4:] == [("tree", True)]


def test_balanced_and_own_calibration_from_a_local_folder(study: Study, tmp_path: Path) -> None:
    (tmp_path / "text" / "wikipedia").mkdir(parents=True)
    for language in ("english", "swahili"):
        lines = [
            json.dumps({"text": f"{language} passage number {n} about nothing at all " * 9}) for n in range(5)
        ]
        (tmp_path / "text" / "wikipedia" / f"{language}.jsonl").write_text("\n".join(lines))
    update = {
        "arms": ("wanda:0.5,calibration=balanced", "wanda:0.5,calibration=own"),
        "calibration_folder": str(tmp_path / "text"),
        "calibration_samples": 3,
    }
    rows = run(study.model_copy(update=update), tmp_path / "run")
    assert rows.group_by("arm").len()["len"].to_list() == [12] * 3
    notes = [json.loads(file.read_text()) for file in (tmp_path / "run" / "compression").glob("*.json")]
    text = {
        (note["arm"], tuple(sorted(note["steps"][0]["calibration"]["tokens_by_language"]))) for note in notes
    }
    assert text == {
        ("wanda:0.5,calibration=balanced", ("english", "swahili")),
        ("wanda:0.5,calibration=own", ("english",)),
        ("wanda:0.5,calibration=own", ("swahili",)),
    }
