"""Long answers of a run, against `model.generate` and plain forward passes of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import transformers

from anomia.compress.folder import compress_folder
from anomia.compress.spec import parse_arm
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
    assert records["continuation_kl"].list.max().max() < 1e-5


def test_a_run_is_resumed_with_the_same_long_answers(study: Study, tmp_path: Path) -> None:
    whole = run(study, tmp_path / "run")
    (shard,) = [path for path in (tmp_path / "run").rglob("*.parquet") if path.name.startswith("magnitude")]
    shard.unlink()
    assert run(study, tmp_path / "run").equals(whole, null_equal=True)
