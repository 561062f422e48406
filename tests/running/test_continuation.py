"""Long answers of a run, against `model.generate` and plain forward passes of transformers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers

from anomia.compress.folder import compress_folder
from anomia.compress.spec import parse_arm
from anomia.errors import RunError
from anomia.loops import settled_loop
from anomia.measure.gate import check_run, read_limits
from anomia.measure.long_answers import safe_tokens
from anomia.measure.results import read_results
from anomia.report.tables.arm_results import arm_results
from anomia.report.tables.long_answers import long_answers
from anomia.run_folder import RunFolder
from anomia.running.execute import run_study
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

TOKENS = 24


@pytest.fixture
def study(write_jsonl: Callable[..., Path], model_folder: Path, request: pytest.FixtureRequest) -> Study:
    return Study(
        base=str(model_folder),
        arms=("magnitude:0.5", "null:batch=2"),
        data=f"jsonl:{write_jsonl([entry(n, 'english') for n in range(9)])}",
        probes=("open", "choice", "continuation"),
        engine=getattr(request, "param", "auto"),
        limit=6,
        batch_size=4,
        continuation_tokens=TOKENS,
        max_new_tokens=4,
        noise_items=0,
        dtype="float32",
    )


def run(study: Study, out: Path) -> pl.DataFrame:
    run_study(study, out, progress=PlainProgress(lambda _: None))
    return RunFolder(out).records()


@torch.no_grad()
def generated(model: Any, prompt: list[int]) -> list[int]:
    tokens: list[int]
    ids = torch.tensor([prompt])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
    )
    tokens = found[0, len(prompt) :].tolist()
    return tokens[: tokens.index(1)] if 1 in tokens else tokens


@torch.no_grad()
def along(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log probabilities [T + 1, V] by one forward pass without a cache."""
    logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 :]
    return torch.log_softmax(logits.double(), -1)


@pytest.mark.parametrize("study", ["tree", "reference"], indirect=True)
def test_long_answers_are_those_of_plain_transformers(study: Study, tmp_path: Path, tokenizer: Any) -> None:
    records = run(study, tmp_path / "run")
    assert_as_by_transformers(records, study, tokenizer, tmp_path)


def assert_as_by_transformers(records: pl.DataFrame, study: Study, tokenizer: Any, tmp_path: Path) -> None:
    compress_folder(study.base, tmp_path / "pruned", parse_arm("magnitude:0.5").steps)
    models = {
        "base": transformers.AutoModelForCausalLM.from_pretrained(study.base).eval(),
        "magnitude:0.5": transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").eval(),
    }
    base_rows = {row["item_id"]: row for row in records.filter(pl.col("arm") == "base").iter_rows(named=True)}
    differing = 0
    for row in records.filter(pl.col("arm").is_in(["base", "magnitude:0.5"])).iter_rows(named=True):
        item = (
            RunFolder(tmp_path / "run").items().filter(pl.col("item_id") == row["item_id"]).row(0, named=True)
        )
        prompt = tokenizer(
            f"Context: {item['context']}\n\nQuestion: {item['question']}\n\nAnswer in a few words:"
        ).input_ids
        model, before = models[row["arm"]], base_rows[row["item_id"]]
        answer = generated(models["base"], prompt)
        own = generated(model, prompt)
        assert before["continuation_ids"] == answer
        assert row["continuation_ids"] == own
        assert row["continuation_ended"] == (len(own) < TOKENS)
        found = along(model, prompt, answer)
        for place, token in enumerate(answer):
            log_prob = found[place, token]
            assert row["continuation_ranks"][place] == 1 + int((found[place] > log_prob).sum())
            assert row["continuation_log_probs"][place] == pytest.approx(float(log_prob), abs=1e-4)
            assert row["continuation_margins"][place] == pytest.approx(
                float(found[place].max() - log_prob), abs=1e-4
            )
        assert row["continuation_end_log_probs"] == pytest.approx(found[:, 1].tolist(), abs=1e-4)
        if row["arm"] == "base":
            assert row["continuation_kl"] is None
            continue
        assert row["continuation_equal"] == (own == answer)
        differs = [n for n, (one, other) in enumerate(zip(answer, own, strict=False)) if one != other]
        first = differs[0] if differs else None if own == answer else min(len(own), len(answer))
        assert row["continuation_divergence"] == first
        differing += first is not None
        reference = along(models["base"], prompt, answer)
        for place, kl in enumerate(row["continuation_kl"]):
            kept = reference[place].topk(32).indices
            p, q = (each[place, kept].exp().tolist() for each in (reference, found))
            tails = 1 - math.fsum(p), 1 - math.fsum(q)
            expected = math.fsum(
                a * math.log(a / b) for a, b in zip([*p, tails[0]], [*q, tails[1]], strict=True)
            )
            assert kl == pytest.approx(expected, abs=1e-3)
        assert row["continuation_top1"] == (reference.argmax(-1) == found.argmax(-1)).tolist()
    assert differing, "pruning changed no answer, so nothing was compared"


def test_base_in_another_batch_size_is_base(study: Study, tmp_path: Path) -> None:
    records = run(study, tmp_path / "run").filter(pl.col("arm") == "null:batch=2")
    assert records["continuation_equal"].all()
    assert records["continuation_divergence"].is_null().all()
    assert records["continuation_top1"].list.all().all()
    assert max(max(each) for each in records["continuation_kl"].to_list()) < 1e-5


def test_a_run_is_resumed_with_the_same_long_answers(study: Study, tmp_path: Path) -> None:
    whole = run(study, tmp_path / "run")
    (shard,) = [path for path in (tmp_path / "run").rglob("*.parquet") if path.name.startswith("magnitude")]
    shard.unlink()
    assert run(study, tmp_path / "run").equals(whole, null_equal=True)


@pytest.fixture
def planted(model_folder: Path, tmp_path: Path) -> Callable[[str, Callable[[Any], None]], Path]:
    """Makes a folder with a changed copy of the tiny model."""

    def make(name: str, change: Callable[[Any], None]) -> Path:
        model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
        with torch.no_grad():
            change(model)
        folder = tmp_path / name
        shutil.copytree(model_folder, folder)
        model.save_pretrained(folder)
        return folder

    return make


def ends_often(model: Any) -> None:
    model.lm_head.weight[1] *= 2.5


def never_ends(model: Any) -> None:
    ends_often(model)
    model.lm_head.weight[1] = 0


def repeats(model: Any) -> None:
    """Nothing is added to the last token's embedding, which is nearest to itself."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.lm_head.weight.copy_(model.model.embed_tokens.weight)


def test_a_model_that_loops_and_one_that_never_ends_are_named(
    study: Study, planted: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    base = planted("base", ends_often)
    loops, endless = planted("loops", repeats), planted("endless", never_ends)
    study = study.model_copy(
        update={
            "base": str(base),
            "arms": (f"checkpoint:{loops}", f"checkpoint:{endless}", "null:batch=2"),
            "continuation_tokens": 160,
            "data": f"jsonl:{write_jsonl([entry(n, 'english') for n in range(40)])}",
            "limit": 36,
            "batch_size": 12,
        }
    )
    records = run(study, tmp_path / "run")
    ended, looped = (
        {arm.rpartition("/")[2]: share for arm, share in records.group_by("arm").agg(column).iter_rows()}
        for column in (
            pl.col("continuation_ended").mean(),
            pl.col("continuation_loop_start").is_not_null().mean(),
        )
    )
    assert ended == {"base": 1, "null:batch=2": 1, "loops": 0, "endless": 0}
    assert (looped["base"], looped["null:batch=2"], looped["loops"]) == (0, 0, 1)
    results = read_results(tmp_path / "run")
    words = {v.arm.rpartition("/")[2]: v.words for v in results.verdicts if v.scope == "overall"}
    assert "100 % (90 % to 100 %) never end" in words["endless"].headline
    assert "100 % (90 % to 100 %) loop" in words["loops"].headline
    assert "never end" not in words["null:batch=2"].text
    safe = {
        arm.rpartition("/")[2]: safe_tokens([row for row in results.diagnosis.damage if row.arm == arm])
        for arm in results.arms
    }
    assert safe["null:batch=2"] == 128
    assert safe["endless"] is safe["loops"] is None
    # Along base's answers the endless model is all right: it only lacks the end.
    arm = next(arm for arm in results.arms if arm.endswith("endless"))
    top, end = (results.estimate(f"along/{name}", arm) for name in ("top", "end"))
    assert top is not None
    assert end is not None
    assert top.value > 0.99
    assert end.value < 0.01
    gate = check_run(results, read_limits(max_more_loops=0.1, min_same_language=0.0))
    found = {(check.arm.rpartition("/")[2], check.limit_is): check.result for check in gate.checks}
    assert found["loops", "at most"] == "fail"
    assert any("never end" in caution.text for caution in check_run(results, read_limits()).cautions)


def counts_up_then_stays(model: Any) -> None:
    """Without layers, the next token follows from the last one alone: most answers end up in a loop of a few tokens."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


@pytest.mark.parametrize("engine", ["tree", "reference"])
def test_stopping_at_loops_changes_no_answer_that_is_none(
    engine: str, study: Study, planted: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    loops, mixed = planted("loops", repeats), planted("mixed", counts_up_then_stays)
    study = study.model_copy(
        update={
            "base": str(mixed),
            "arms": (f"checkpoint:{loops}", f"checkpoint:{study.base}", "null:batch=2"),
            "continuation_tokens": 96,
            "engine": engine,
            "probes": ("open", "choice", "continuation"),
            "data": f"jsonl:{write_jsonl([entry(n, 'english') for n in range(16)])}",
            "limit": 12,
        }
    )
    whole = run(study, tmp_path / "whole")
    stopping = study.model_copy(update={"stop_at_loops": True})
    stopped = run(stopping, tmp_path / "stopped")
    assert whole["continuation_stopped"].is_null().all()
    cut = 0
    for before, after in zip(whole.iter_rows(named=True), stopped.iter_rows(named=True), strict=True):
        assert (before["arm"], before["item_id"]) == (after["arm"], after["item_id"])
        found = settled_loop(before["continuation_ids"], 96)
        same = ["open_text", "choice_scores", "continuation_loop_start", "continuation_loop_period"]
        if found is None or found.tokens == 96:
            assert after["continuation_stopped"] is None
            # Along base's answer nothing is said beyond where base was stopped.
            same += ["continuation_ids", "continuation_text", "continuation_ended"]
        else:
            assert after["continuation_stopped"] == found.tokens
            assert after["continuation_ids"] == before["continuation_ids"][: found.tokens]
            assert after["continuation_ended"] is None
            assert before["continuation_loop_start"] is not None
            cut += 1
        assert {name: before[name] for name in same} == {name: after[name] for name in same}
        if before["continuation_divergence"] != after["continuation_divergence"]:
            assert after["continuation_divergence"] is after["continuation_equal"] is None
            assert before["continuation_divergence"] >= len(after["continuation_ids"])
    assert 0 < cut < len(whole)
    results = {name: read_results(tmp_path / name) for name in ("whole", "stopped")}
    for arm in (f"checkpoint:{loops}", "null:batch=2"):
        for measure in ("long/looped", "long/looped_more", "along/top", "along/kl", "along/demoted"):
            one, other = (results[name].estimate(measure, arm) for name in results)
            assert one is not None
            assert other == pytest.approx(one) if measure == "along/kl" else other == one
        for measure in ("long/unended", "long/unended_more", "long/equal", "long/same_layout"):
            one, other = (results[name].estimate(measure, arm) for name in results)
            assert one is not None
            assert other is not None
            assert other.low <= one.low <= one.high <= other.high
    # A reader is told.
    notes = {
        name: long_answers(arm_results(found, f"checkpoint:{loops}")).notes for name, found in results.items()
    }
    assert any("stopped at loops" in note for note in notes["stopped"])
    assert not any("stopped at loops" in note for note in notes["whole"])
    # Resumed from half a run, and asked again without the flag: the same, and another study.
    (shard,) = [path for path in (tmp_path / "stopped").rglob("*.parquet") if path.name.startswith("null")]
    shard.unlink()
    assert run(stopping, tmp_path / "stopped").equals(stopped, null_equal=True)
    with pytest.raises(RunError, match="stop_at_loops"):
        run(study, tmp_path / "stopped")


def test_a_run_of_a_version_without_the_setting_is_resumed(study: Study, tmp_path: Path) -> None:
    whole = run(study, tmp_path / "run")
    file = RunFolder(tmp_path / "run").study_file
    lines = file.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("stop_at_loops")]
    assert len(kept) == len(lines) - 1
    file.write_text("".join(kept), "utf-8")
    assert run(study, tmp_path / "run").equals(whole, null_equal=True)
