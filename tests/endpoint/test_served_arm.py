"""A served model as an arm: the same model behind HTTP and in this process answer alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tenacity
import torch
import transformers

import anomia
from anomia.records import SCHEMA
from tests.conftest import entry
from tests.endpoint.fake_server import Fake
from tests.models.chat_templates import MISTRAL

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
def measure(model_folder: Path, tmp_path: Path) -> Callable[..., anomia.Run]:
    questions = tmp_path / "questions.jsonl"
    distractors = {"passage_distractors": ["the town", "was founded", "others"]}
    questions.write_text("".join(json.dumps(entry(n, **distractors)) + "\n" for n in range(10)))

    def run(*arms: str, **settings: Any) -> anomia.Run:
        given = {"base": str(model_folder), "out": tmp_path / "run", **QUICK, **settings}
        return anomia.run(arms=arms, data=f"jsonl:{questions}", **given)

    return run


@pytest.fixture
def word_model(make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> Path:
    """A model that answers everything with one sentence of whole words, each token after the one before it."""
    sentence = tokenizer(" the river of a town", add_special_tokens=False).input_ids
    assert len(set(sentence)) == len(sentence) > 6
    after = dict(zip(sentence, [*sentence[1:], tokenizer.eos_token_id], strict=True))
    model = make_model(hidden_size=256, head_dim=64)
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        states = torch.nn.functional.normalize(torch.randn(len(tokenizer), 256), dim=1)
        model.model.embed_tokens.weight.copy_(states)
        model.lm_head.weight.zero_()
        for token in range(len(tokenizer)):
            model.lm_head.weight[after.get(token, sentence[0])] += states[token]
    folder = tmp_path / "words"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(run: anomia.Run, arm: str) -> pl.DataFrame:
    return run.records.filter(arm=arm).sort("index")


def test_prompts_are_asked_of_a_served_model(
    fake: Fake, url: str, model_folder: Path, tmp_path: Path
) -> None:
    fake.ranks = True
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Tell me about {n}.\n" for n in range(6)))
    arm = f"endpoint:{url}#tiny"
    run = anomia.run(
        base=str(model_folder), arms=(arm,), data=f"prompts:{prompts}", out=tmp_path / "run", progress=False,
        continuation_tokens=3,
    )  # fmt: skip
    before, after = rows(run, "base"), rows(run, arm)
    assert after["continuation_text"].to_list() == before["continuation_text"].to_list()
    assert run.verdict.outcome == "unjudged"


@pytest.mark.parametrize("ranks", [False, True])
def test_long_answers_of_a_served_model_are_those_of_the_loaded_one(
    fake: Fake, url: str, measure: Callable[..., anomia.Run], ranks: bool
) -> None:
    fake.ranks = ranks
    arm = f"endpoint:{url}#tiny"
    run = measure(arm, probes=("open", "choice", "continuation"), continuation_tokens=3, limit=9)
    before, after = rows(run, "base"), rows(run, run.arms[0])
    assert after["continuation_text"].to_list() == before["continuation_text"].to_list()
    assert after["continuation_ended"].to_list() == before["continuation_ended"].to_list()
    assert after["continuation_equal"].all()
    assert after["continuation_kl"].is_null().all()
    told = after["continuation_ranks"].is_not_null()
    # A tiny model writes bytes that are no text, which come back as other tokens.
    assert told.any() == ranks
    for mine, theirs in zip(
        after.filter(told).iter_rows(named=True), before.filter(told).iter_rows(named=True), strict=True
    ):
        assert mine["continuation_ranks"] == theirs["continuation_ranks"]
        assert mine["continuation_log_probs"] == pytest.approx(theirs["continuation_log_probs"], abs=1e-4)
    top = run.estimate("along/top", run.arms[0])
    assert (top is not None and top.value > 0.99) == ranks
    assert run.estimate("along/kl", run.arms[0]) is None


def _other_ids(fake: Fake, ids: list[int]) -> list[tuple[str, str]]:
    """The same pieces in another vocabulary, as of a converted model."""
    return [(f"1000{token}", fake.tokenizer.decode([token])) for token in ids]


def _moved_cuts(fake: Fake, ids: list[int]) -> list[tuple[str, str]]:
    """As many tokens of the same text, but cut a letter later."""
    text = "".join(fake.tokenizer.decode([token]) for token in ids)
    ends = [
        len("".join(fake.tokenizer.decode([token]) for token in ids[: n + 1])) + 1 for n in range(len(ids))
    ]
    starts = [0, *ends[:-1]]
    return [(f"2000{n}", text[one:end]) for n, (one, end) in enumerate(zip(starts, ends, strict=True))]


@pytest.mark.parametrize(("named", "told"), [(_other_ids, True), (_moved_cuts, False)])
def test_ranks_along_base_are_of_its_tokens_or_not_given(
    fake: Fake,
    url: str,
    tmp_path: Path,
    word_model: Path,
    named: Callable[[Fake, list[int]], list[tuple[str, str]]],
    told: bool,
) -> None:
    fake.ranks = True
    fake.model = transformers.AutoModelForCausalLM.from_pretrained(word_model)
    fake.named = lambda ids: named(fake, ids)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Tell me about {n}.\n" for n in range(4)))
    arm = f"endpoint:{url}#tiny"
    run = anomia.run(
        base=str(word_model), arms=(arm,), data=f"prompts:{prompts}", out=tmp_path / "run", progress=False,
        continuation_tokens=6,
    )  # fmt: skip
    before, after = rows(run, "base"), rows(run, arm)
    assert after["continuation_text"].to_list() == before["continuation_text"].to_list()
    assert after["continuation_ranks"].to_list() == (
        before["continuation_ranks"].to_list() if told else [None] * 4
    )
    lacking = [
        note for note in run.notes[arm] if note.startswith("no ranks along base's long answer for 4 items")
    ]
    assert len(lacking) == (not told)
    assert all("cuts base's answer into other tokens" in note for note in lacking)
    assert not [note for note in run.notes[arm] if "refused to answer" in note]


def test_a_server_that_refuses_base_s_answer_has_answered(
    fake: Fake, url: str, tmp_path: Path, word_model: Path
) -> None:
    fake.ranks = True
    fake.model = transformers.AutoModelForCausalLM.from_pretrained(word_model)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Tell me about one.\n")

    def too_long(number: int) -> Any:
        asked = fake.requests[number - 1]
        along = "prompt_logprobs" in asked and asked["prompt"].startswith("Tell me about one.")
        return (400, {}, b"maximum context length") if along else None

    fake.fail = too_long
    arm = f"endpoint:{url}#tiny"
    run = anomia.run(
        base=str(word_model), arms=(arm,), data=f"prompts:{prompts}", out=tmp_path / "run", progress=False,
        continuation_tokens=8,
    )  # fmt: skip
    before, after = rows(run, "base"), rows(run, arm)
    assert after["continuation_text"].to_list() == before["continuation_text"].to_list()
    assert after["continuation_ranks"].to_list() == [None]
    (note,) = [note for note in run.notes[arm] if "no ranks along base's long answer for 1 item:" in note]
    assert "maximum context length" in note


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
    places = ["gold_rank", "gold_distinct_rank", "control_rank", "control_distinct_rank"]
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
    fake.refuses = {"top_k", "min_p", "repeat_penalty", "repetition_penalty"}
    run = measure(f"endpoint:{url}#tiny")
    (arm,) = run.arms
    base, served = rows(run, "base"), rows(run, arm)
    assert served["open_text"].to_list() == base["open_text"].to_list()
    for column in (*(f"{name}_correct" for name in CHOSEN), "gold_log_prob", "gold_rank"):
        assert served[column].null_count() == 6
    notes = " ".join(run.notes[arm])
    assert "choice and ranks are not measured" in notes
    assert "status 400" in notes
    assert "ignore top_k, min_p, repetition penalty, so its own defaults apply" in notes
    # What was not asked is not taken for wrong.
    assert "Multiple choice was not measured" in run.verdict.text
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
    monkeypatch.setattr("anomia.running.folder.SHARD_ITEMS", 3)
    monkeypatch.setenv("ANOMIA_ENDPOINT_CONCURRENCY", "1")
    fake.fail = lambda number: (401, {}) if number > 130 else None
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


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("sk-hunter2-secret", None),
        # As secret stores and files end it.
        ("sk-hunter2-secret\r\n", None),
        # A server that repeats the headers that it refuses.
        ("sk-hunter2-secret", (400, {}, b"bad header: Bearer sk-hunter2-secret")),
        ("sk-hunter2-secret", (503, {}, b"bad header: Bearer sk-hunter2-secret")),
        ("sk-hunter2\x00secret", None),
        ("sk-hunter2-sécret", None),
    ],
)
def test_no_key_is_stored(
    fake: Fake,
    url: str,
    measure: Callable[..., anomia.Run],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
    caplog: Any,
    tmp_path: Path,
    key: str,
    fault: Any,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(tenacity, "sleep_using_event", lambda event: lambda seconds: None)
    if "\x00" in key:
        # No environment can hold it, but a library's message could repeat it.
        monkeypatch.setattr("anomia.endpoint.keys.os.environ", {"ANOMIA_ENDPOINT_KEY": key})
    else:
        monkeypatch.setenv("ANOMIA_ENDPOINT_KEY", key)
    fake.fail = lambda number: fault
    sound = key.strip() == "sk-hunter2-secret"
    says = (
        "bad header: Bearer …" if sound else "ANOMIA_ENDPOINT_KEY contains characters that a key can't have"
    )
    fails = pytest.raises(anomia.AnomiaError, match=says) if fault or not sound else nullcontext()
    with fails as caught:
        measure(f"endpoint:{url}#tiny")
    assert caught is None or "hunter2" not in str(caught.value)
    assert set(fake.keys) == ({"Bearer sk-hunter2-secret"} if sound else set())
    for file in (tmp_path / "run").rglob("*"):
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


def test_a_prompt_that_is_too_long_for_the_server_is_left_out_and_said(
    fake: Fake, url: str, measure: Callable[..., anomia.Run]
) -> None:
    whole = measure(f"endpoint:{url}#tiny", out=None)
    asked = [body["prompt"] for body in fake.requests if "Question:" in body["prompt"]]
    lengths = sorted(len(fake.tokenizer(text).input_ids) for text in asked)
    # Only prompts with an example are so long.
    fake.longest = lengths[-1] - 1
    run = measure(f"endpoint:{url}#tiny")
    (arm,) = run.arms
    assert not run.failed
    before, after = rows(whole, arm), rows(run, arm)
    assert 1 <= after["one_shot_text"].null_count() < 6
    assert after["one_shot_correct"].null_count() == after["one_shot_text"].null_count()
    for column in ("open_text", "cued_text", "choice_pick", "sample_texts"):
        assert after[column].to_list() == before[column].to_list(), column
    (note,) = [note for note in run.notes[arm] if "the server refused to answer" in note]
    assert f"one_shot of {after['one_shot_text'].null_count()} item" in note
    assert "maximum context length" in note
    # What was not answered is neither right nor wrong.
    figures = run.estimates().filter(measure="accuracy/one_shot", scope="pooled")
    assert figures.filter(arm=arm)["n"].to_list() == [6 - after["one_shot_text"].null_count()]
    fake.longest = 5
    with pytest.raises(anomia.AnomiaError, match="maximum context length is 5"):
        measure(f"endpoint:{url}#tiny", out=run.path.parent / "all")


def test_another_model_behind_the_same_address_is_noticed(
    fake: Fake,
    url: str,
    measure: Callable[..., anomia.Run],
    make_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anomia.running.folder.SHARD_ITEMS", 3)
    monkeypatch.setenv("ANOMIA_ENDPOINT_CONCURRENCY", "1")
    fake.fail = lambda number: (401, {}) if number > 130 else None
    (arm,) = measure(f"endpoint:{url}#tiny").arms
    fake.fail = lambda number: None
    mine, fake.model = fake.model, make_model(7)
    assert "another model or server answers there now" in measure(arm).failed[arm]
    fake.model, fake.echo = mine, False
    assert "reports different log-probabilities" in measure(arm).failed[arm]
    fake.echo = True
    run = measure(arm)
    assert not run.failed
    assert rows(run, arm).height == 6


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_bos_that_only_the_template_has_is_sent(
    fake: Fake,
    url: str,
    measure: Callable[..., anomia.Run],
    model_folder: Path,
    tmp_path: Path,
    adds_bos: bool,
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    if not adds_bos:
        settings = json.loads((base / "tokenizer.json").read_text())
        settings["post_processor"] = None
        (base / "tokenizer.json").write_text(json.dumps(settings))
        fake.tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    template = transformers.AutoTokenizer.from_pretrained(base)
    template.chat_template = "<s>" + fake.tokenizer.chat_template.removeprefix("{{ bos_token }}")
    template.save_pretrained(base)
    run = measure(f"endpoint:{url}#tiny", base=str(base), chat=True, probes=["open", "choice"])
    served, mine = rows(run, run.arms[0]), rows(run, "base")
    assert served["open_text"].to_list() == mine["open_text"].to_list()
    asked = [body["prompt"] for body in fake.requests if "<user>" in body["prompt"]]
    assert {prompt.startswith("<s>") for prompt in asked} == {not adds_bos}


@pytest.mark.parametrize("heeds", [True, False])
def test_a_start_token_that_the_template_leaves_out_is_left_out_by_the_server_too(
    fake: Fake,
    url: str,
    measure: Callable[..., anomia.Run],
    model_folder: Path,
    tmp_path: Path,
    heeds: bool,
) -> None:
    # Zephyr, Vicuna: the tokenizer adds a BOS to plain text, and the chat template begins without one.
    fake.heeds_special = heeds
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = fake.tokenizer.chat_template.removeprefix("{{ bos_token }}")
    tokenizer.save_pretrained(base)
    asked: dict[str, Any] = {"base": str(base), "chat": True, "probes": ["open", "choice"]}
    if not heeds:
        with pytest.raises(anomia.AnomiaError, match="puts a start token before every prompt"):
            measure(f"endpoint:{url}#tiny", **asked)
        return
    run = measure(f"endpoint:{url}#tiny", **asked)
    served, mine = rows(run, run.arms[0]), rows(run, "base")
    assert served["open_text"].to_list() == mine["open_text"].to_list()
    assert served["choice_scores"].explode().to_list() == pytest.approx(
        mine["choice_scores"].explode().to_list(), abs=1e-3
    )


def test_a_served_chat_model_is_scored_with_the_templates_own_space(
    fake: Fake, url: str, measure: Callable[..., anomia.Run], model_folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_folder, base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = MISTRAL
    tokenizer.save_pretrained(base)
    run = measure(f"endpoint:{url}#tiny", base=str(base), chat=True, probes=["open", "choice"])
    served, mine = rows(run, run.arms[0]), rows(run, "base")
    assert any(body["prompt"].endswith(f"[/INST] {mine['gold'][0]}") for body in fake.requests)
    assert served["choice_scores"].explode().to_list() == pytest.approx(
        mine["choice_scores"].explode().to_list(), abs=1e-3
    )


def test_a_server_that_is_not_there_is_said_before_base_is_measured(
    measure: Callable[..., anomia.Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenacity, "sleep_using_event", lambda event: lambda seconds: None)
    run = measure("endpoint:http://127.0.0.1:9/v1#tiny", "magnitude:0.5", progress=True)
    said = " ".join(capsys.readouterr().err.split())
    assert said.index("does not answer yet") < said.index("base")
    assert list(run.failed) == ["endpoint:http://127.0.0.1:9/v1#tiny"]
    assert run.arms == ["magnitude:0.5"]
    monkeypatch.setenv("ANOMIA_ENDPOINT_RATE", "-1")
    with pytest.raises(anomia.AnomiaError, match="ANOMIA_ENDPOINT_RATE"):
        measure("endpoint:http://127.0.0.1:9/v1#other", out=run.path.parent / "new")
    assert not (run.path.parent / "new" / "study.yaml").exists()


@pytest.fixture
def bare(model_folder: Path, tmp_path: Path) -> Any:
    """The tokenizer without the start token that it adds."""
    folder = tmp_path / "bare"
    shutil.copytree(model_folder, folder)
    settings = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    return transformers.AutoTokenizer.from_pretrained(folder)


OPEN: dict[str, Any] = {"probes": ["open", "choice"]}


def test_a_server_without_start_token_is_said_first_and_shown(
    fake: Fake, url: str, measure: Callable[..., anomia.Run], bare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.tokenizer = bare
    run = measure(f"endpoint:{url}#tiny", progress=True, **OPEN)
    (arm,) = run.arms
    assert not run.failed
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("different tokens put around a text") == 1
    assert said.index("different tokens put around a text") < said.index("loading")
    values = json.loads((run.path / "results.json").read_text())
    rows_ = {row["what"]: row for row in values["differences"][arm]}
    assert rows_["tokens put around a text"]["kind"] == "confounding"
    assert rows_["end tokens"]["kind"] == "noted"
    assert "not due to the weights alone: its tokens put around a text differ from base's" in run.verdict.text
    # It goes on like this, and the same is not said to be another server.
    for file in (run.path / "records").glob("endpoint*"):
        file.unlink()
    assert not measure(arm, **OPEN).failed


def test_a_server_with_base_s_tokenizer_has_nothing_that_confounds(
    url: str, measure: Callable[..., anomia.Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = measure(f"endpoint:{url}#tiny", progress=True, **OPEN)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("not reported by the server, so not compared with base: end tokens") == 1
    assert "its losses may come from this" not in said
    assert "not due to the weights alone" not in run.verdict.text
    values = json.loads((run.path / "results.json").read_text())
    assert [(row["what"], row["kind"]) for row in values["differences"][run.arms[0]]] == [
        ("end tokens", "noted")
    ]


def test_a_server_that_is_up_only_later_is_counted_at_its_turn(
    fake: Fake, url: str, measure: Callable[..., anomia.Run], bare: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.tokenizer = bare
    # The first greeting and the first look fail.
    fake.fail = lambda number: (503, {}) if number <= 2 else None
    run = measure(f"endpoint:{url}#tiny", progress=True, **OPEN)
    assert not run.failed
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("different tokens put around a text") == 1
    assert "not due to the weights alone" in run.verdict.text


def test_a_server_whose_tokenizer_changes_is_noticed(
    fake: Fake, url: str, measure: Callable[..., anomia.Run], bare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomia.running.folder.SHARD_ITEMS", 3)
    run = measure(f"endpoint:{url}#tiny", **OPEN)
    (arm,) = run.arms
    files = sorted((run.path / "records").glob("endpoint*.parquet"))
    files[-1].unlink()
    before = (run.path / "results.json").read_text()
    mine, fake.tokenizer = fake.tokenizer, bare
    run = measure(arm, **OPEN)
    assert arm in run.failed
    # What stands in the run is of the server that answered.
    assert (
        json.loads(before)["differences"]
        == json.loads((run.path / "results.json").read_text())["differences"]
    )
    fake.tokenizer = mine
    assert not measure(arm, **OPEN).failed


def test_the_schema_of_records_is_kept(fake: Fake, url: str, measure: Callable[..., anomia.Run]) -> None:
    run = measure(f"endpoint:{url}#tiny")
    files = list((run.path / "records").glob("endpoint*.parquet"))
    assert files
    assert all(pl.read_parquet_schema(file) == SCHEMA for file in files)
