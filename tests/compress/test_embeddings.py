"""Tables of tokens rounded as GGUF files store them: which, tied or not, and what transformers reads of such a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from anomia.compress.apply import compress
from anomia.compress.methods.embeddings import find_tables, notes, quantize_embeddings, saved_bytes
from anomia.compress.methods.ggml import round_trip
from anomia.compress.size import stored_bytes, tensor_bytes
from anomia.compress.spec import parse_arm
from anomia.errors import CompressionError
from anomia.matrix import Matrix, StudyCell
from anomia.models.load import load_model
from anomia.run_folder import RunFolder
from anomia.running.execute import run_matrix
from anomia.running.progress import PlainProgress
from anomia.study import Study
from tests.conftest import entry

from .conftest import tiny_model


def rounded(model: Any, kind: str) -> dict[str, torch.Tensor]:
    """The weights of a model that are not what they were, after the step."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize_embeddings(model, kind)
    return {name: value for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q6_k", "q4_k"])
@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_and_head_are_rounded_and_nothing_else(kind: str, tied: bool) -> None:
    model = tiny_model("llama", hidden_size=256, tie_word_embeddings=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = rounded(model, kind)
    assert changed.keys() == {"model.embed_tokens.weight", "lm_head.weight"}
    for name, value in changed.items():
        codes = round_trip(before[name], kind)
        assert torch.equal(value, codes)
    shared = model.lm_head.weight is model.model.embed_tokens.weight
    assert shared == tied


def test_a_tied_weight_is_rounded_once_and_listed_twice() -> None:
    model = tiny_model("gemma3", hidden_size=64)
    weight = model.model.embed_tokens.weight.data.clone()
    scale = model.model.embed_tokens.embed_scale.clone()
    steps: list[tuple[int, int]] = []
    reports = quantize_embeddings(model, "q4_1", progress=lambda done, whole: steps.append((done, whole)))
    assert [report.name for report in reports] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert [report.note for report in reports] == [
        "",
        "the same weight as model.embed_tokens.weight, rounded once",
    ]
    # q4_1 is not idempotent: a second rounding would show.
    assert torch.equal(model.lm_head.weight, round_trip(weight, "q4_1"))
    assert steps[-1] == (96, 96)
    # Gemma's factor is no part of what is stored.
    assert torch.equal(model.model.embed_tokens.embed_scale, scale)
    assert torch.equal(
        model.model.embed_tokens(torch.tensor([3])), round_trip(weight, "q4_1")[[3]] * scale.to(weight.dtype)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_more_and_says_so(dtype: torch.dtype) -> None:
    model = tiny_model("llama", hidden_size=64).to(dtype)
    before = model.lm_head.weight.float()
    quantize_embeddings(model, "q4_0")
    assert model.lm_head.weight.dtype == dtype
    assert torch.equal(model.lm_head.weight, round_trip(before, "q4_0").to(dtype))
    assert any(str(dtype).removeprefix("torch.") in note for note in notes(model, "q4_0"))


@pytest.mark.parametrize(("width", "stored"), [(640, "q8_0"), (48, "f16"), (512, "q6_k")])
def test_a_width_that_blocks_do_not_divide_takes_llama_cpps_other_format(width: int, stored: str) -> None:
    model = tiny_model("llama", hidden_size=width)
    before = model.lm_head.weight.data.clone()
    reports = quantize_embeddings(model, "q6_k")
    assert torch.equal(model.lm_head.weight, round_trip(before, stored))
    said = [report.note for report in reports if f"stored as {stored}" in report.note]
    assert len(said) == (0 if stored == "q6_k" else 2)
    # What the model takes on disk then.
    bits = {"q8_0": 8.5, "f16": 16, "q6_k": 6.5625}[stored]
    assert saved_bytes(model, "q6_k") == 2 * 96 * width * (32 - bits) / 8
    assert tensor_bytes(model) > saved_bytes(model, "q6_k")


def test_positions_stay_and_are_named() -> None:
    model = tiny_model("gpt2", n_embd=64)
    assert rounded(model, "q4_0").keys() == {"transformer.wte.weight", "lm_head.weight"}
    assert any("transformer.wpe" in note for note in notes(model, "q4_0"))
    # As many positions as tokens: the name tells.
    same = tiny_model("gpt2", n_embd=64, n_positions=96)
    assert [table.names[0] for table in find_tables(same)] == ["transformer.wte.weight"]


def test_embeddings_for_each_layer_are_rounded_too() -> None:
    config = transformers.Gemma4TextConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, intermediate_size=32, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, vocab_size_per_layer_input=90, hidden_size_per_layer_input=32,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert [table.names for table in find_tables(model)] == [
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("model.embed_tokens_per_layer.weight",),
    ]
    assert rounded(model, "q4_0").keys() == {
        "model.embed_tokens.weight", "model.embed_tokens_per_layer.weight", "lm_head.weight",
    }  # fmt: skip


def test_what_can_not_be_rounded_is_one_message_and_nothing_is_changed() -> None:
    model = tiny_model("llama", hidden_size=64)
    model.lm_head.weight.data[5, 3] = float("nan")
    before = model.model.embed_tokens.weight.data.clone()
    with pytest.raises(CompressionError, match=r"lm_head\.weight has 1 of .* values that are NaN"):
        quantize_embeddings(model, "q8_0")
    assert torch.equal(model.model.embed_tokens.weight, before)
    with pytest.raises(CompressionError, match="not a format of GGUF files"):
        quantize_embeddings(model, "int4")
    packed = tiny_model("llama", hidden_size=64)
    packed.lm_head.weight = torch.nn.Parameter(torch.zeros(96, 64, dtype=torch.int8), requires_grad=False)
    with pytest.raises(CompressionError, match=r"lm_head\.weight is stored as torch\.int8"):
        quantize_embeddings(packed, "q8_0")


def test_the_tables_are_those_that_transformers_reads_of_a_gguf_file(tmp_path: Path) -> None:
    from .test_gguf import write_tiny_gguf

    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    read = load_model(str(file), dtype="float32").model
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    # The file was written with the package gguf; the same values again change nothing.
    kept = {name: value.clone() for name, value in read.state_dict().items()}
    quantize_embeddings(read, tensors["token_embd.weight"].tensor_type.name.lower())
    for name, value in read.state_dict().items():
        assert torch.equal(value, kept[name]), name


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q5_1"])
def test_an_arm_has_the_answers_of_a_gguf_file_whose_tables_alone_are_quantized(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .test_gguf import write_tiny_gguf

    add = gguf.GGUFWriter.add_tensor
    packed: list[str] = []

    def stored(self: Any, name: str, values: Any, raw_dtype: Any = None) -> None:
        if raw_dtype is not None:
            values, raw_dtype = gguf.dequantize(values, raw_dtype), None
            if name in packed:
                raw_dtype = gguf.GGMLQuantizationType[kind.upper()]
                values = gguf.quantize(values, raw_dtype)
        add(self, name, values, raw_dtype=raw_dtype)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", stored)
    write_tiny_gguf(tmp_path / "dense.gguf")
    packed += ["token_embd.weight", "output.weight"]
    write_tiny_gguf(tmp_path / "tables.gguf")
    dense, tables = (
        load_model(str(tmp_path / f"{name}.gguf"), dtype="float32").model for name in ("dense", "tables")
    )
    step = parse_arm(f"embeddings:{kind}").steps[0]
    report = compress(dense, step)
    ids = torch.tensor([[5, 90, 200, 7, 257]])
    assert torch.equal(dense(ids).logits, tables(ids).logits)
    assert [matrix.name for matrix in report.matrices] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert not any("embed" in name or "lm_head" in name for name in report.left_dense)
    # On disk the tables are as large as they are in the file; the rest is float32.
    sizes = {
        tensor.name: tensor.n_bytes
        for tensor in gguf.GGUFReader(tmp_path / "tables.gguf").tensors
    }  # fmt: skip
    assert report.size_bytes == sum(sizes.values())
    both = parse_arm(f"int8+embeddings:{kind}").steps
    blocks = stored_bytes(dense, both[:1]) - tensor_bytes(dense)
    assert stored_bytes(dense, both) == report.size_bytes + blocks


def test_a_run_measures_the_tables_alone(model_folder: Path, write_jsonl: Any, tmp_path: Path) -> None:
    data = f"jsonl:{write_jsonl([entry(n) for n in range(6)])}"
    study = Study(
        base=str(model_folder), arms=("embeddings:q4_k", "int8+embeddings:q4_0"), data=data, limit=6, batch_size=3,
        max_new_tokens=4, num_samples=1, oracle_limit=2, noise_items=0, dtype="float32",
    )  # fmt: skip
    run_matrix(
        Matrix((StudyCell("", study),), single=True),
        tmp_path / "run",
        progress=PlainProgress(lambda text: None),
    )
    records = RunFolder(tmp_path / "run").records()
    assert set(records["arm"]) == {"base", "embeddings:q4_k", "int8+embeddings:q4_0"}
    told = {
        report["arm"]: report
        for file in (tmp_path / "run" / "compression").glob("*.json")
        for report in [json.loads(file.read_text())]
    }
    tables = told["embeddings:q4_k"]["steps"][-1]
    assert [matrix["name"] for matrix in tables["matrices"]] == [
        "model.embed_tokens.weight",
        "lm_head.weight",
    ]
    # Rows of 32 hold no block of 256.
    assert all(matrix["note"].startswith("stored as q5_0") for matrix in tables["matrices"])
    assert told["int8+embeddings:q4_0"]["size_bytes"] < tables["size_bytes"]
