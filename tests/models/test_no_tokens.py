"""Tokenizers that give no token, or always the same one, end in one message, not in a traceback or a number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anomia.cli import main
from anomia.compress.calibration import CalibrationText, make_windows
from anomia.models.load import load_tokenizer
from tests.compress.test_folder import save_model, write_text

PLAIN = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
         "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None}  # fmt: skip
MARK = {
    "id": 0,
    "content": "<s>",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
MARKED = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}],
          "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
          "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}  # fmt: skip


def bpe(*words: str) -> dict[str, Any]:
    return {
        "type": "BPE",
        "vocab": {word: n for n, word in enumerate(words)},
        "merges": [],
        "unk_token": None,
    }


# By name: the tokenizer, and what `compress` says of it.
TOKENIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "no word": (PLAIN | {"model": {"type": "WordLevel", "vocab": {}, "unk_token": "?"}}, "with a vocabulary"),
    "only special tokens": (PLAIN | {"added_tokens": [MARK], "post_processor": MARKED, "model": bpe("<s>")}, "with a vocabulary"),
    "only an unknown token": (PLAIN | {"model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}}, "one and the same token for every text"),
    "a normalizer that removes everything": (PLAIN | {"normalizer": {"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": ""}, "model": bpe("a", "b")}, "no token for every text"),
    "letters of another alphabet": (PLAIN | {"model": bpe("Ж", "Щ", "Ю")}, "no token but special ones"),
    "letters of another alphabet between marks": (PLAIN | {"added_tokens": [MARK], "post_processor": MARKED, "model": bpe("<s>", "Ж", "Щ")}, "no token but special ones"),
}  # fmt: skip


@pytest.fixture(params=list(TOKENIZERS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    tokenizer, message = TOKENIZERS[request.param]
    save_model("llama", tmp_path / "in", max_position_embeddings=1024)
    (tmp_path / "in" / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "in" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return tmp_path / "in", message


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_compression_of_a_model_without_tokens_is_refused(
    model: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, message = model
    source, out = write_text(tmp_path / "text.txt"), tmp_path / "out"
    assert message in said(capsys, "compress", str(folder), str(out), "wanda:0.5", "--calibration", source)
    file = str(tmp_path / "text.txt")
    found = said(capsys, "compress", str(folder), str(out), "magnitude:0.5", "--perplexity", file)
    assert "for every text" in found or "no token for the text" in found or "with a vocabulary" in found
    assert not out.exists()


def test_a_run_of_a_model_without_tokens_is_refused(
    model: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--base",
        str(model[0]),
        "--arm",
        "magnitude:0.5",
        "--data",
        "demo",
        "--limit",
        "2",
        "--device",
        "cpu",
    )
    found = said(capsys, "run", *arguments, "--out", str(tmp_path / "run"))
    assert "for every text" in found or "gives no token for" in found or "with a vocabulary" in found


def test_passages_without_tokens_are_dropped_and_counted(tmp_path: Path) -> None:
    """Their windows held start and end tokens alone, and counted."""
    save_model("llama", tmp_path)
    marked = PLAIN | {"added_tokens": [MARK], "post_processor": MARKED, "model": bpe("<s>", *"abc")}
    (tmp_path / "tokenizer.json").write_text(json.dumps(marked))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<s>"})
    )
    tokenizer = load_tokenizer(str(tmp_path))[0]
    text = CalibrationText("test", ("abc", "xyz", "cab"), ("", "", ""), "", None, 0, ())
    windows = make_windows(text, tokenizer)
    assert windows.token_ids == ((0, 1, 2, 3, 0), (0, 3, 1, 2, 0))
    assert any(
        "dropped 1 passage for which the tokenizer has no token" in each for each in windows.record.warnings
    )
