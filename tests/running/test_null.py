"""Null arms, the dtype that a run settles on, and a batch-size sensitivity that asks what the study asks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers
import yaml

from anomia.compress.spec import is_null, parse_arm
from anomia.errors import CompressionError, StudyError
from anomia.measure.evidence import OVERALL
from anomia.measure.results import read_results
from anomia.models.memory import hold
from anomia.probe import precision
from anomia.probe.precision import Precision, precision_for
from anomia.run_folder import RunFolder
from anomia.running import execute, noise
from anomia.running import model as running_model
from anomia.running.answerer import LocalModel
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

Write = Callable[..., Path]


@pytest.fixture
def study(write_jsonl: Write, model_folder: Path) -> Study:
    return Study(
        base=str(model_folder),
        arms=("null:batch=3", "null:bfloat16", "null:int8"),
        data=f"jsonl:{write_jsonl([entry(n, 'english') for n in range(12)])}",
        limit=8,
        batch_size=4,
        max_new_tokens=4,
        num_samples=2,
        oracle_limit=4,
        noise_items=4,
    )


def run(study: Study, out: Path, said: list[str] | None = None) -> pl.DataFrame:
    told = PlainProgress((lambda text: None) if said is None else said.append)
    run_study(study, out, progress=told)
    return RunFolder(out).records()


@pytest.mark.parametrize("text", ["null:float32", "null:batch=4", "null:int8"])
def test_specifications_are_read_and_written_alike(text: str) -> None:
    assert parse_arm(text).name == text
    assert is_null(text)
    assert not is_null("int8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("null:float23", "did you mean 'float32'"),
        ("null", "unknown noise"),
        ("null:batch=0", "positive whole number"),
        ("null:int8+wanda:0.5", "can't be combined with other steps"),
        ("wanda:0.5+null:float32", "can't be combined with other steps"),
    ],
)
def test_other_noise_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse_arm(text)


def test_null_arms_are_base_again(study: Study, tmp_path: Path) -> None:
    records = run(study, tmp_path / "run")
    base = records.filter(pl.col("arm") == "base")
    batch = records.filter(pl.col("arm") == "null:batch=3")
    for column in ("open_text", "choice_pick", "sample_texts"):
        assert batch[column].equals(base[column]), column
    half = records.filter(pl.col("arm") == "null:bfloat16")
    assert half["gold_log_prob"].to_list() != base["gold_log_prob"].to_list()
    assert (half["gold_log_prob"] - base["gold_log_prob"]).abs().max() < 1
    reports = [json.loads(file.read_text()) for file in (tmp_path / "run" / "compression").glob("*.json")]
    done = {report["arm"]: report for report in reports}
    assert {arm: report["null"] for arm, report in done.items()} == {arm: arm for arm in study.arms}
    assert [step["step"] for step in done["null:int8"]["steps"]] == ["int8"]
    assert done["null:batch=3"]["steps"] == []
    verdicts = {v.arm: v for v in read_results(tmp_path / "run").verdicts if v.scope == OVERALL}
    assert set(verdicts) == set(study.arms)


@pytest.mark.parametrize(
    ("settings", "arm", "loaded"),
    [
        ({}, "null:batch=4", False),
        ({}, "null:float32", True),
        ({"dtype": "float32"}, "null:float32", False),
        ({"batch_size": "auto"}, "null:batch=16", True),
    ],
)
def test_noise_that_is_none_is_refused_before_anything_is_measured(
    study: Study,
    tmp_path: Path,
    settings: dict[str, Any],
    arm: str,
    loaded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anomia.running.begin.fitting_batch_size", lambda model, need: 16)
    said: list[str] = []
    same = study.model_copy(update={"arms": ("null:batch=2", arm), **settings})
    with pytest.raises(CompressionError, match="base already runs in"):
        run(same, tmp_path / "run", said)
    assert any("loading" in line for line in said) == loaded
    # The folder is not begun, so that a mended study can take it.
    assert not RunFolder(tmp_path / "run").is_run


def test_noise_that_is_none_in_a_run_of_an_earlier_version_is_left_out_and_the_others_go_on(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in ("begin", "execute"):
        monkeypatch.setattr(f"anomia.running.{where}.check_differs", lambda *_, **__: None)
    same = study.model_copy(update={"arms": ("null:batch=4", "null:float32", "null:batch=2")})
    records = run(same, tmp_path / "run")
    assert set(records["arm"].unique()) == {"base", "null:batch=2"}
    failed = read_results(tmp_path / "run").failed
    assert "already runs in batches of 4" in failed["null:batch=4"]
    assert "already runs in float32" in failed["null:float32"]


@pytest.fixture
def half_folder(model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model, stored in bfloat16."""
    folder = tmp_path / "half"
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


def settled(out: Path) -> str:
    return str(yaml.safe_load((out / "study.yaml").read_text())["provenance"]["dtype"])


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_the_dtype_is_settled_once_for_all_arms(
    study: Study, half_folder: Path, tmp_path: Path, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    def decide(model: Any) -> Precision:
        tried.append(model.dtype)
        return Precision(getattr(torch, chosen), f"{chosen}, for a reason", 1.0)

    monkeypatch.setattr(running_model, "precision_for", decide)
    seen: list[torch.dtype] = []
    answer = LocalModel.answer

    def watch(self: LocalModel, *given: Any, **more: Any) -> Any:
        seen.append(self.loaded.model.dtype)
        return answer(self, *given, **more)

    monkeypatch.setattr(LocalModel, "answer", watch)
    arms = ("magnitude:0.5", f"checkpoint:{half_folder}")
    asked = study.model_copy(update={"base": str(half_folder), "arms": arms, "noise_items": 0})
    said: list[str] = []
    run(asked, tmp_path / "run", said)
    assert settled(tmp_path / "run") == chosen
    assert tried == [torch.bfloat16]
    assert set(seen) == {getattr(torch, chosen)}
    assert any(f"base runs in {chosen}, for a reason" in text for text in said)
    # A run that is resumed keeps its dtype, whatever the machine would say now.
    monkeypatch.setattr(running_model, "precision_for", lambda model: pytest.fail("decided anew"))
    for file in (tmp_path / "run" / "records").glob("magnitude*.parquet"):
        file.unlink()
    run(asked, tmp_path / "run")


def test_what_decides_the_dtype(
    half_folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = transformers.AutoModelForCausalLM.from_pretrained(half_folder, dtype="auto")
    whole = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto")
    assert precision_for(whole) is None
    monkeypatch.setattr(precision, "cost_of_float32", lambda *_: 1.9)
    found = precision_for(half)
    assert found is not None
    assert found.dtype == torch.float32
    monkeypatch.setattr(precision, "cost_of_float32", lambda *_: 2.1)
    found = precision_for(half)
    assert found is not None
    assert (found.dtype, found.times) == (torch.bfloat16, 2.1)
    assert "2.1 times as long" in found.why
    monkeypatch.setattr(precision, "FLOAT32_SHARE", 1e-12)
    found = precision_for(half)
    assert found is not None
    assert found.dtype == torch.bfloat16
    assert "too much here" in found.why


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_base_is_what_an_undamaged_arm_is_also_in_what_is_not_stored(
    study: Study,
    half_folder: Path,
    tmp_path: Path,
    chosen: str,
    in_memory: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Precision(getattr(torch, chosen), f"{chosen}, for a reason", 1.0)
    monkeypatch.setattr(running_model, "precision_for", lambda model: made)
    seen: dict[str, dict[str, torch.Tensor]] = {}
    measure = execute.measure_shard

    def watch(cell: Any, shard: Any, ready: Any, *more: Any, **other: Any) -> None:
        seen[shard.arm] = {name: buffer.clone() for name, buffer in ready.loaded.model.named_buffers()}
        measure(cell, shard, ready, *more, **other)

    monkeypatch.setattr(execute, "measure_shard", watch)
    base = str(half_folder)
    if in_memory:
        model = transformers.AutoModelForCausalLM.from_pretrained(half_folder, dtype="auto")
        base = hold(model, transformers.AutoTokenizer.from_pretrained(half_folder))
    asked = study.model_copy(update={"base": base, "arms": ("null:batch=3",), "noise_items": 0})
    run(asked, tmp_path / "run")
    frequencies = [buffer for name, buffer in seen["base"].items() if "inv_freq" in name]
    assert frequencies
    assert all(buffer.dtype == torch.float32 for buffer in frequencies)
    assert seen["base"].keys() == seen["null:batch=3"].keys()
    for name, buffer in seen["base"].items():
        assert buffer.dtype == seen["null:batch=3"][name].dtype, name
        assert torch.equal(buffer, seen["null:batch=3"][name]), name


def test_the_cost_of_float32_is_measured(half_folder: Path) -> None:
    half = transformers.AutoModelForCausalLM.from_pretrained(half_folder, dtype="auto")
    assert precision.cost_of_float32(half) > 0


def test_batch_size_sensitivity_asks_what_the_study_asks(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[Any]] = {}
    answer = LocalModel.answer

    def watch(self: LocalModel, encoded: Any, *given: Any, **more: Any) -> Any:
        by_noise = sys._getframe(1).f_globals["__name__"] == noise.__name__
        asked.setdefault("noise" if by_noise else "study", []).extend(encoded)
        return answer(self, encoded, *given, **more)

    monkeypatch.setattr(LocalModel, "answer", watch)
    # Few positions, so that passages are cut for them: prompts of a floor with other limits would be longer.
    short = study.model_copy(update={"arms": ("magnitude:0.5",), "max_new_tokens": 24})
    load = running_model.load_model

    def narrow(*args: Any, **more: Any) -> Any:
        loaded = load(*args, **more)
        loaded.model.config.max_position_embeddings = 139
        return loaded

    monkeypatch.setattr(running_model, "load_model", narrow)
    run(short, tmp_path / "run")
    prompts = {item.ask.item_id: item.ask.greedy["open"] for item in asked["study"]}
    assert {item.ask.item_id: item.ask.greedy["open"] for item in asked["noise"]}.items() <= prompts.items()
    assert any(item.truncated for item in asked["noise"])


def test_half_precision_is_held_against_float32(
    study: Study, half_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = Precision(torch.bfloat16, "bfloat16", 3.0)
    monkeypatch.setattr(running_model, "precision_for", lambda model: stays)
    asked = study.model_copy(update={"base": str(half_folder), "arms": ("magnitude:0.5",)})
    run(asked, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "noise.json").read_text())
    assert found["dtype"]["dtype"] == "float32"
    assert found["dtype"]["items"] == found["items"] == 4
    assert set(found["dtype"]["flips"]) == {"open", "choice", "open_text"}
    assert found["dtype"]["languages"]["english"]["items"] == 4
