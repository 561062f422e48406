"""`anomia compare`: two checkpoints in, the diagnosis out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

import anomia
from anomia.cli import main
from anomia.compress.spec import arm_of, parse_arm
from anomia.measure.results import read_vocabularies
from tests.conftest import entry

Write = Callable[..., Path]


@pytest.fixture
def other_folder(make_model: Callable[..., Any], tmp_path: Path) -> Path:
    """A model with another tokenizer: characters instead of pieces."""
    vocabulary = {"<s>": 0, "</s>": 1, "?": 2} | {chr(n): n for n in range(3, 127)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    model.decoder = tokenizers.decoders.Fuse()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>", unk_token="?"
    )
    make_model(3, vocab_size=127).save_pretrained(tmp_path / "other")
    wrapped.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_two_checkpoints_with_tokenizers_of_their_own(
    model_folder: Path,
    other_folder: Path,
    write_jsonl: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_jsonl([entry(n) for n in range(8)])
    main_arguments = [
        "compare",
        str(model_folder),
        str(other_folder),
        "--data",
        f"jsonl:{data}",
        "--limit",
        "4",
    ]
    with pytest.raises(SystemExit) as ended:
        main([*main_arguments, "--out", str(tmp_path / "run")])
    assert ended.value.code == 0
    run = anomia.open_run(tmp_path / "run")
    (arm,) = run.arms
    assert arm == f"checkpoint:{other_folder}"
    assert read_vocabularies(run.path) == {arm: 127}
    ranks, asked = run.notes[arm]
    assert "each model's own tokenizer" in ranks
    assert "a different tokenizer from base's (127 tokens against" in asked
    assert "it has a different tokenizer" in " ".join(capsys.readouterr().out.split())
    assert json.loads((run.path / "results.json").read_text())["notes"] == {arm: [ranks, asked]}
    mine = run.records.filter(arm=arm)
    assert mine["kl_from_base"].null_count() == 4
    # Ranks are of the first token that the arm's own tokenizer gives: a single character here.
    assert set(mine["gold_first_token"].str.len_chars()) == {1}
    assert mine["gold_rank"].null_count() == 0


def test_the_same_tokenizer_needs_no_word(model_folder: Path, write_jsonl: Write, tmp_path: Path) -> None:
    data = write_jsonl([entry(n) for n in range(8)])
    run = anomia.run(
        base=str(model_folder), arms=[f"checkpoint:{model_folder}"], data=f"jsonl:{data}", limit=4,
        out=tmp_path / "run", progress=False, probes=["open", "choice", "rank"], noise_items=0,
    )  # fmt: skip
    assert run.notes == {}
    assert run.records.filter(arm=run.arms[0])["kl_from_base"].max() < 1e-9


def test_what_names_a_model() -> None:
    for text, arm in (
        ("me/pruned", "checkpoint:me/pruned"),
        ("./a,b+c", "checkpoint:./a%2Cb%2Bc"),
        ("wanda:0.5", "wanda:0.5"),
        ("endpoint:http://h/v1#m", "endpoint:http://h/v1#m"),
    ):
        assert arm_of(text) == arm
        assert parse_arm(arm_of(text)).name == arm


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path / "none"), "x/y", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "no folder has this name" in " ".join(capsys.readouterr().err.split())
