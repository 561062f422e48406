"""What stays dense is listed by the names that the weights have in the model's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from anomia.compress.apply import compress
from anomia.compress.folder import compress_folder
from anomia.compress.report import CompressionReport

from .architectures import tiny
from .conftest import tiny_model
from .test_folder import save_model, step_of


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
    "kind", ["phimoe", "mixtral", "minimax", "granitemoe", "gpt_neox", "gemma3", "olmo_hybrid", "nemotron_h"]
)
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


def test_a_tied_head_is_not_listed_twice() -> None:
    report = compress(tiny_model("llama_biases_tied"), step_of("magnitude:0.5"))
    assert named(report) == {"model.embed_tokens.weight"}
