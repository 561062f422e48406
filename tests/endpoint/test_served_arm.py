"""A served model as an arm: the same model behind HTTP and in this process answer alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import anomia
from anomia.endpoint.abilities import find_abilities
from anomia.endpoint.client import Client
from anomia.endpoint.ready import notes_of
from anomia.records import SCHEMA
from tests.conftest import entry
from tests.endpoint.fake_server import Fake, serving

QUICK = {
    "num_beams": 2,
    "num_samples": 2,
    "max_new_tokens": 6,
    "noise_items": 0,
    "progress": False,
    "limit": 6,
}
GENERATED = [
    "open_text",
    "cued_text",
    "distractors_only_text",
    "unrelated_text",
    "one_shot_text",
    "zero_shot_text",
]
CHOSEN = ["choice", "choice_hard", "choice_passage", "choice_no_question"]


@pytest.fixture
def fake(make_model: Callable[..., Any], tokenizer: Any) -> Fake:
    return Fake(make_model(), tokenizer)


@pytest.fixture
def url(fake: Fake) -> Iterator[str]:
    with serving(fake) as address:
        yield address


@pytest.fixture
def measure(model_folder: Path, tmp_path: Path) -> Callable[..., anomia.Run]:
    questions = tmp_path / "questions.jsonl"
    distractors = {"passage_distractors": ["the town", "was founded", "others"]}
    questions.write_text("".join(json.dumps(entry(n, **distractors)) + "\n" for n in range(10)))

    def run(*arms: str, **settings: Any) -> anomia.Run:
        return anomia.run(
            base=str(model_folder), arms=arms, data=f"jsonl:{questions}", out=tmp_path / "run", **{**QUICK, **settings}
        )  # fmt: skip

    return run


def rows(run: anomia.Run, arm: str) -> pl.DataFrame:
    return run.records.filter(arm=arm).sort("index")


@pytest.mark.parametrize("ranks", [False, True])
def test_a_served_model_answers_as_the_loaded_one(
    fake: Fake, url: str, measure: Callable[..., anomia.Run], ranks: bool
) -> None:
    fake.ranks = ranks
    run = measure(f"endpoint:{url}#tiny")
    (arm,) = run.arms
    base, served = rows(run, "base"), rows(run, arm)
    for column in GENERATED:
        assert served[column].to_list() == base[column].to_list(), column
    for name in CHOSEN:
        before, after = (frame[f"{name}_scores"].explode().to_list() for frame in (base, served))
        assert after == pytest.approx(before, abs=1e-3), name
        assert served[f"{name}_correct"].to_list() == base[f"{name}_correct"].to_list()
    assert served["gold_log_prob"].to_list() == pytest.approx(base["gold_log_prob"].to_list(), abs=1e-3)
    assert served["sample_texts"].list.len().to_list() == [2] * 6
    assert served["beam_texts"].null_count() == served["kl_from_base"].null_count() == 6
    places = ["gold_rank", "gold_distinct_rank", "foil_rank", "foil_distinct_rank"]
    if ranks:
        for place in places:
            assert served[place].to_list() == base[place].to_list(), place
        assert served["gold_margin"].to_list() == pytest.approx(base["gold_margin"].to_list(), abs=1e-3)
    else:
        assert all(served[place].null_count() == 6 for place in places)
    assert any("ranks are not measured" in note for note in run.notes[arm]) != ranks
    assert run.verdict.outcome == "untestable"
    json.dumps(json.loads((run.path / "results.json").read_text()), allow_nan=False)


def test_a_server_without_log_probabilities_answers_the_rest(
    fake: Fake, url: str, measure: Callable[..., anomia.Run]
) -> None:
    fake.echo = False
    fake.strict = True
    run = measure(f"endpoint:{url}#tiny")
    (arm,) = run.arms
    base, served = rows(run, "base"), rows(run, arm)
    assert served["open_text"].to_list() == base["open_text"].to_list()
    for column in (*(f"{name}_correct" for name in CHOSEN), "gold_log_prob", "gold_rank"):
        assert served[column].null_count() == 6
    notes = " ".join(run.notes[arm])
    assert "choice and ranks are not measured" in notes
    assert "status 400" in notes
    assert "its own defaults hold" in notes
    # What was not asked is not taken for wrong.
    assert "Choice was not measured" in run.verdict.text
    assert run.fates().filter(options="choice").is_empty()
    assert "arm" in repr(run) or run.arms


def test_samples_are_drawn_alike_in_any_order(
    fake: Fake, url: str, measure: Callable[..., anomia.Run]
) -> None:
    run = measure(f"endpoint:{url}#tiny")
    seeds = [body["seed"] for body in fake.requests if "seed" in body]
    assert len(seeds) == len(set(seeds)) == 12
    before = rows(run, run.arms[0])["sample_texts"].to_list()
    for file in (run.path / "records").glob("endpoint*"):
        file.unlink()
    assert rows(measure(run.arms[0]), run.arms[0])["sample_texts"].to_list() == before


def test_an_interrupted_run_goes_on_shard_by_shard(
    fake: Fake, url: str, measure: Callable[..., anomia.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomia.run.folder.SHARD_ITEMS", 3)
    monkeypatch.setenv("ANOMIA_ENDPOINT_CONCURRENCY", "1")
    fake.fail = lambda number: (401, {}) if number > 100 else None
    run = measure(f"endpoint:{url}#tiny")
    (arm,) = run.arms
    assert "refuses the key" in run.failed[arm]
    first = rows(run, arm)
    assert first["index"].to_list() == [0, 1, 2]
    fake.fail = lambda number: None
    run = measure(arm)
    assert not run.failed
    assert rows(run, arm)["index"].to_list() == list(range(6))
    assert rows(run, arm).head(3).equals(first)
    whole = len(fake.requests)
    measure(arm)
    assert len(fake.requests) == whole


def test_no_key_is_stored(
    fake: Fake,
    url: str,
    measure: Callable[..., anomia.Run],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
    caplog: Any,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("ANOMIA_ENDPOINT_KEY", "sk-hunter2-secret")
    run = measure(f"endpoint:{url}#tiny")
    assert set(fake.keys) == {"Bearer sk-hunter2-secret"}
    for file in run.path.rglob("*"):
        if file.is_file():
            assert b"hunter2" not in file.read_bytes(), file
    out, err = capfd.readouterr()
    assert "hunter2" not in out + err + caplog.text


def test_chat_prompts_are_sent_without_a_second_bos(
    fake: Fake, url: str, measure: Callable[..., anomia.Run]
) -> None:
    run = measure(f"endpoint:{url}#tiny", chat=True, probes=["open", "choice"])
    prompts = [body["prompt"] for body in fake.requests if "<user>" in body["prompt"]]
    assert prompts
    assert not any(prompt.startswith("<s>") for prompt in prompts)
    base, served = rows(run, "base"), rows(run, run.arms[0])
    assert served["open_text"].to_list() == base["open_text"].to_list()
    assert served["choice_scores"].explode().to_list() == pytest.approx(
        base["choice_scores"].explode().to_list(), abs=1e-3
    )


def test_abilities_are_found_out(fake: Fake, url: str) -> None:
    with Client(url, "tiny") as client:
        for echo, ranks, strict in ((True, False, False), (True, True, False), (False, False, True)):
            fake.echo, fake.ranks, fake.strict = echo, ranks, strict
            found = find_abilities(client)
            assert (found.echo, found.ranks, not found.plain) == (echo, ranks, strict)
            assert len(notes_of(found)) == 1 + (not ranks) + strict


def test_the_schema_of_records_is_kept(fake: Fake, url: str, measure: Callable[..., anomia.Run]) -> None:
    run = measure(f"endpoint:{url}#tiny")
    files = list((run.path / "records").glob("endpoint*.parquet"))
    assert files
    assert all(pl.read_parquet_schema(file) == SCHEMA for file in files)
