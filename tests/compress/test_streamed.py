"""Steps that go through the files give what the loaded model gives, hold little in memory, and can be interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anomia.compress import shards
from anomia.compress.apply import compress, prepare_windows
from anomia.compress.folder import UNFINISHED, compress_folder
from anomia.compress.shards import Checkpoint
from anomia.compress.written import Written
from anomia.errors import CompressionError
from tests.compress.reshaped import IDS, logits
from tests.compress.test_folder import StopError, save_model, step_of, weights

EMBEDDINGS = ["embeddings:q8_0", "embeddings:q4_k"]


def in_memory(source: Path, step: str, out: Path, **options: Any) -> Any:
    """The report of the step on the loaded model, which is saved."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    report = compress(model, step_of(step), prepare_windows(step_of(step), tokenizer, **options))
    model.save_pretrained(out)
    return report


def plain(report: Any) -> dict[str, Any]:
    """What a report says, apart from times and what only a written folder tells."""
    values: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    return {key: value for key, value in values.items() if key not in ("seconds", "size_bytes", "versions")}


def config_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


def equal_folders(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name
    assert config_of(one) == config_of(other)
    models = [transformers.AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (one, other)]
    assert torch.equal(*(logits(model, IDS % 90) for model in models))


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Ends a call after so many shards."""
    real, written = Written.write, []

    def write(self: Written, name: str, tensors: Any) -> None:
        if len(written) == count:
            raise StopError
        written.append(name)
        real(self, name, tensors)

    monkeypatch.setattr(Written, "write", write)


@pytest.mark.parametrize("step", EMBEDDINGS)
@pytest.mark.parametrize("family", ["llama", "llama_biases_tied", "gemma3", "gpt2", "mixtral"])
def test_rounded_tables_equal_those_of_the_loaded_model(family: str, step: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "in")
    expected = in_memory(tmp_path / "in", step, tmp_path / "loaded")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(step)])
    assert report.streamed
    equal_folders(tmp_path / "loaded", tmp_path / "out")
    assert plain(report.compression) | {"dense_why": None} == plain(expected)
    assert not (tmp_path / "out" / UNFINISHED).exists()


def test_a_tied_table_that_is_stored_twice_is_rounded_in_both_places(tmp_path: Path) -> None:
    save_model("llama_biases_tied", tmp_path / "in")
    stored = load_file(tmp_path / "in" / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("embeddings:q4_0")])
    found = weights(tmp_path / "out")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert [m.name for m in report.compression.matrices] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert not torch.equal(found["lm_head.weight"], stored["lm_head.weight"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tables_are_rounded_in_the_type_that_was_asked_for(dtype: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("embeddings:q4_0")], dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=dtype)
    compress(model, step_of("embeddings:q4_0"))
    model.save_pretrained(tmp_path / "loaded")
    equal_folders(tmp_path / "loaded", tmp_path / "out")


def test_rounding_tables_holds_one_shard_and_continues_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "in")
    monkeypatch.setattr(shards, "_WHOLE_SHARD", 6200)
    step = [step_of("embeddings:q8_0")]
    held: list[int] = []
    real = Checkpoint.read

    def read(self: Checkpoint, names: Any, **options: Any) -> dict[str, torch.Tensor]:
        found = real(self, names, **options)
        held.append(sum(value.nbytes for value in found.values()))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "read", read)
        compress_folder(str(tmp_path / "in"), tmp_path / "whole", step)
    files = sorted(file.name for file in (tmp_path / "whole").glob("*.safetensors"))
    assert len(files) > 5
    assert max(held) <= 6200
    for count in (0, 1, 4):
        with monkeypatch.context() as patch:
            stop_after(patch, count)
            with pytest.raises(StopError):
                compress_folder(str(tmp_path / "in"), tmp_path / f"out{count}", step)
        report = compress_folder(str(tmp_path / "in"), tmp_path / f"out{count}", step)
        assert report.resumed_at == count
        for name in files:
            assert (tmp_path / f"out{count}" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_tables_of_another_model_are_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model("llama", tmp_path / "in")
    monkeypatch.setattr(shards, "_WHOLE_SHARD", 6200)
    step = [step_of("embeddings:q8_0")]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(StopError):
            compress_folder(str(tmp_path / "in"), tmp_path / "out", step)
    save_model("llama", tmp_path / "in", seed=1)
    with pytest.raises(CompressionError, match="an unfinished compression with another model"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", step)


def test_a_damaged_table_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "in")
    stored = load_file(tmp_path / "in" / "model.safetensors")
    stored["lm_head.weight"][3, 3] = torch.nan
    save_file(stored, tmp_path / "in" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompressionError, match=r"lm_head\.weight has values that are NaN"):
        compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("embeddings:q8_0")])
    assert not (tmp_path / "out").exists()
