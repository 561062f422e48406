"""What stays dense is listed by the names that the weights have in the model's files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.left_dense import BARE, EMBEDDING, LOOSE, OUTSIDE, why_dense
from anomia.compress.options import FolderOptions, TextOptions
from anomia.compress.report import CompressionReport
from anomia.compress.spec import parse_arm
from anomia.models.tensors import skeleton

from .architectures import tiny
from .conftest import tiny_model
from .test_folder import save_model, save_tokenizer, step_of, write_text


def stored_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            names |= set(opened.keys())
    return names


def named(report: CompressionReport) -> set[str]:
    assert report.dense_why is not None
    return {name for names in report.dense_why.values() for name in names}


@pytest.mark.parametrize(
    "kind",
    [
        "phimoe", "mixtral", "minimax", "granitemoe", "gpt_neox", "gemma3", "olmo_hybrid", "nemotron_h", "camembert",
        "xlm-roberta", "prophetnet",
    ],
)  # fmt: skip
def test_names_are_those_of_the_saved_files(kind: str, tmp_path: Path) -> None:
    """Their names in memory are others: a router of Phi-MoE is `mlp.router` there and `block_sparse_moe.gate` here."""
    model = tiny(kind)
    report = compress(model, step_of("magnitude:0.5"))
    model.save_pretrained(tmp_path)
    assert named(report) == set(report.left_dense) <= stored_names(tmp_path)
    tables = compress(model, step_of("embeddings:q8_0"))
    assert set(tables.left_dense) <= stored_names(tmp_path)


@pytest.mark.parametrize("arm", ["magnitude:0.5", "embeddings:q8_0"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "mixtral"])
def test_a_written_folder_and_its_source_have_the_names(family: str, arm: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "in")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(arm)]).compression
    assert report.left_dense
    assert set(report.left_dense) <= stored_names(tmp_path / "in")
    assert set(report.left_dense) <= stored_names(tmp_path / "out")


@pytest.mark.parametrize("kind", ["camembert", "prophetnet", "bigbird_pegasus", "mixtral"])
def test_from_files_the_same_is_listed(kind: str, tmp_path: Path) -> None:
    """A tied head counts as its embedding; one that an architecture never ties, whatever its configuration says, is there."""
    model = tiny(kind)
    model.save_pretrained(tmp_path / "in")
    save_tokenizer(tmp_path / "in")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")]).compression
    assert report.dense_why == compress(model, step_of("magnitude:0.5")).dense_why


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("inkling_text", "rel_logits_proj.proj", LOOSE),
        ("hy_v4", "attn_hc.fn", LOOSE),
        ("inkling2_text", "attention_input.query", BARE),
        ("kimi_linear", "forget_gate.A_log", BARE),
        ("rembert", "encoder.embedding_hidden_mapping_in.weight", OUTSIDE),
        ("xlnet", "rel_attn.seg_embed", EMBEDDING),
    ],
)
@pytest.mark.parametrize("loaded", [True, False])
def test_the_reason_is_what_the_weight_does(kind: str, name: str, reason: str, loaded: bool) -> None:
    """`proj`, by which states are multiplied, was called a decay, mixing or scale."""
    model = tiny(kind)
    model = model if loaded else skeleton(model.config)
    why = why_dense(model, find_blocks(model))
    found = {each for place, each in why.items() if place.endswith(name)}
    assert found == {reason}


def test_a_matrix_that_is_cast_in_each_pass_is_one() -> None:
    model = tiny("hy_v4").to(torch.bfloat16)
    why = why_dense(model, find_blocks(model))
    assert {reason for name, reason in why.items() if name.endswith("_hc.fn")} == {LOOSE}


def test_a_tied_head_is_not_listed_twice() -> None:
    report = compress(tiny_model("llama_biases_tied"), step_of("magnitude:0.5"))
    assert named(report) == {"model.embed_tokens.weight"}


def test_weights_that_are_in_no_layer_are_told_if_they_are_many() -> None:
    """A parameter that a block multiplies its states with and that belongs to no layer: that was not said."""
    model = tiny_model("llama")

    class Mixing(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.mixer = torch.nn.Parameter(torch.randn(16, 64) / 8)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.inner(states @ self.mixer @ self.mixer.T)

    for block in model.model.layers:
        block.mlp = Mixing(block.mlp)
    report = compress(model, parse_arm("magnitude:0.5").steps[0])
    [warning] = [text for text in report.warnings if "stay dense" in text]
    assert "belong to no layer (model.layers.0.mlp.mixer, …)" in warning
    told = int(warning.partition("%")[0])
    bare = sum(p.numel() for name, p in model.named_parameters() if name.endswith(".mixer"))
    inside = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name and p.dim() >= 2)
    assert told == round(100 * bare / inside)


HEADS = {
    "untied": True,
    "tied": False,
    "stored twice": False,
    "another one than the configuration says": True,
}


@pytest.mark.parametrize(
    "arm", ["magnitude:0.5", "prunerzero:0.5", "shortgpt:0.34", "flap:0.3", "gptq:4,group=8"]
)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_of_its_own_is_listed_and_kept(head: str, arm: str, tmp_path: Path) -> None:
    """transformers doesn't tie a head to embeddings that it differs from in the files, whatever config.json says.

    Streamed calls left such a head out of the list, and methods that drop parts lost it: the result had the embeddings
    in its place.
    """
    save_model("llama", tmp_path / "in", tie_word_embeddings=head != "untied", hidden_size=32)
    file = tmp_path / "in" / "model.safetensors"
    stored = load_file(file)
    table = stored["model.embed_tokens.weight"]
    if head == "stored twice":
        stored["lm_head.weight"] = table.clone()
    elif head not in ("tied", "untied"):
        stored["lm_head.weight"] = table.flip(0).contiguous()
    save_file(stored, file, {"format": "pt"})
    options = FolderOptions(text=TextOptions(source=write_text(tmp_path / "text.txt"), samples=8))
    step, tokenizer = step_of(arm), transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step], options)
    before = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in")
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(after.lm_head.weight, before.lm_head.weight)
    assert torch.equal(after.model.embed_tokens.weight, table)
    outside = {name for name in report.compression.left_dense if ".layers." not in name}
    assert outside == {"model.embed_tokens.weight"} | ({"lm_head.weight"} if HEADS[head] else set())
    assert report.streamed == (arm != "prunerzero:0.5")
    in_memory = compress(before, step, prepare_windows(step, tokenizer, options.text))
    assert set(in_memory.left_dense) == set(report.compression.left_dense)
    for name, value in after.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]), name
