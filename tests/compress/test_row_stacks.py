"""Experts that are stored one below the other in a parameter of two dimensions, as DBRX's are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.apply import compress, prepare_windows
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.left_dense import ROUTER, why_dense
from anomia.compress.matrices import find_fused_experts
from anomia.compress.options import FolderOptions, TextOptions
from anomia.models.tensors import skeleton

from .conftest import make_test_windows
from .test_folder import save_tokenizer, step_of, weights, write_text

EXPERTS, WIDTH, HIDDEN = 6, 20, 32


def dbrx(experts: int = EXPERTS) -> Any:
    """A DBRX with sizes that differ from those of a tiny model."""
    config = transformers.DbrxConfig(
        d_model=HIDDEN, n_heads=4, n_layers=2, vocab_size=96, max_seq_len=128,
        attn_config={"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        ffn_config={
            "ffn_hidden_size": WIDTH, "moe_num_experts": experts, "moe_top_k": 2, "hidden_size": HIDDEN,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.DbrxForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("experts", [3, 4, 6])
def test_each_expert_is_a_matrix(experts: int, loaded: bool) -> None:
    """The number of experts is that of the model, also where only a tiny one of its architecture shows the layout."""
    model = dbrx(experts)
    model = model if loaded else skeleton(model.config)
    decoder = find_blocks(model)
    found = {each.name: each for each in find_fused_experts(decoder.modules[0], where="b")}
    shapes = {name: [tuple(m.weight.shape) for m in each.matrices()] for name, each in found.items()}
    assert shapes == {
        "ffn.experts.mlp.w1": [(WIDTH, HIDDEN)] * experts,
        "ffn.experts.mlp.v1": [(WIDTH, HIDDEN)] * experts,
        "ffn.experts.mlp.w2": [(HIDDEN, WIDTH)] * experts,
    }
    why = why_dense(model, decoder)
    assert {name for name, reason in why.items() if reason == ROUTER} == {
        f"transformer.blocks.{i}.ffn.router.layer.weight" for i in range(2)
    }


@pytest.mark.parametrize("arm", ["magnitude:0.5", "int8"])
def test_without_text_each_expert_is_compressed_by_itself(arm: str) -> None:
    model, alone = dbrx(), dbrx()
    compress(model, step_of(arm))
    whole = dict(alone.named_parameters())
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parts = whole[name].data.view(EXPERTS, WIDTH, HIDDEN)
            for index, part in enumerate(parameter.data.view(EXPERTS, WIDTH, HIDDEN)):
                twin = torch.nn.Linear(1, 1, bias=False)
                matrix = parts[index].T if name.endswith("w2") else parts[index]
                twin.weight = torch.nn.Parameter(matrix.clone(), requires_grad=False)
                wanted = alone_with(twin, arm)
                assert torch.equal(part.T if name.endswith("w2") else part, wanted), (name, index)


def alone_with(layer: torch.nn.Linear, arm: str) -> torch.Tensor:
    """A matrix that is compressed as the only one of a model."""
    llama = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(
            vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1
        )
    )
    llama.model.layers[0].mlp.gate_proj = layer
    compress(llama, step_of(arm))
    return llama.model.layers[0].mlp.gate_proj.weight.data


@pytest.mark.parametrize(
    "arm",
    [
        "wanda:0.5", "wanda:2:4", "sparsegpt:0.5", "ria:2:4", "mwanda:0.5", "wandapp:0.5", "prunerzero:0.5",
        "wanda:0.5+update", "wanda:0.5,allocation=owl",
    ],
)  # fmt: skip
def test_methods_that_read_activations_prune_every_expert(arm: str) -> None:
    model = dbrx()
    report = compress(model, step_of(arm), make_test_windows([40] * 6))
    experts = [matrix for matrix in report.matrices if ".experts." in matrix.name]
    assert len(experts) == 2 * 3 * EXPERTS
    assert {matrix.shape for matrix in experts} == {(WIDTH, HIDDEN), (HIDDEN, WIDTH)}
    assert sum(m.zeros for m in experts) == pytest.approx(len(experts) * WIDTH * HIDDEN / 2, rel=0.15)
    now = dict(model.named_parameters())
    for name in {matrix.name.partition("[")[0] for matrix in experts}:
        zeros = sum(matrix.zeros for matrix in experts if matrix.name.startswith(f"{name}["))
        assert int((now[name] == 0).sum()) == zeros


@pytest.mark.parametrize("arm", ["gptq:4,group=4", "awq:4,group=4"])
def test_quantizing_by_activations_changes_every_expert(arm: str) -> None:
    model, dense = dbrx(), dbrx()
    report = compress(model, step_of(arm), make_test_windows([40] * 6))
    assert sum(".experts." in matrix.name for matrix in report.matrices) == 2 * 3 * EXPERTS
    before = dict(dense.named_parameters())
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            for part, old in zip(parameter.chunk(EXPERTS), before[name].chunk(EXPERTS), strict=True):
                assert not torch.equal(part, old)
                assert float((part - old).norm() / old.norm()) < 0.2


@pytest.mark.parametrize("arm", ["magnitude:0.5", "int8", "wanda:0.5", "sparsegpt:0.5"])
def test_the_files_are_changed_as_the_loaded_model_is(arm: str, tmp_path: Path) -> None:
    model = dbrx()
    model.save_pretrained(tmp_path / "in")
    save_tokenizer(tmp_path / "in")
    text = TextOptions(source=write_text(tmp_path / "text.txt"), samples=12)
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of(arm)], FolderOptions(text=text))
    assert report.streamed
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    in_place = compress(model, step_of(arm), prepare_windows(step_of(arm), tokenizer, text))
    # Where blocks lie in memory decides the last bits of products.
    told = [[each._replace(error=None) for each in one.matrices] for one in (report.compression, in_place)]
    assert told[0] == told[1]
    written = weights(tmp_path / "out")
    for name, value in model.state_dict().items():
        assert torch.equal(written[name] == 0, value == 0), name
        assert torch.allclose(written[name], value, rtol=1e-4, atol=1e-5), name


def test_nothing_is_said_to_stay_dense_that_does_not() -> None:
    report = compress(dbrx(), step_of("magnitude:0.5"))
    assert not [text for text in report.warnings if "stay dense" in text]
    assert not [name for name in report.left_dense if ".experts." in name]


def test_a_parameter_that_is_one_matrix_is_not_divided() -> None:
    """Its rows are read in one product, or in unequal parts: it stays dense, and is listed."""

    class Mixing(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module, cut: int) -> None:
            super().__init__()
            self.inner, self.cut = inner, cut
            self.bare = torch.nn.Parameter(torch.randn(48, HIDDEN) / 8)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            parts = [self.bare[: self.cut], self.bare[self.cut :]]
            mixed = torch.cat([states @ part.T for part in parts], dim=-1)
            return self.inner(states + mixed[..., :HIDDEN])

    for cut in (0, 12, 20):
        model = dbrx()
        for block in model.transformer.blocks:
            block.ffn = Mixing(block.ffn, cut)
        report = compress(model, step_of("magnitude:0.5"))
        assert not [matrix.name for matrix in report.matrices if "bare" in matrix.name]
        assert {name for name in report.left_dense if name.endswith(".bare")} == {
            f"transformer.blocks.{index}.ffn.bare" for index in range(2)
        }


@pytest.mark.parametrize("heads", [2, 3])
def test_matrices_in_three_dimensions_are_found_for_few_heads(heads: int, tmp_path: Path) -> None:
    """The layout of XLNet's is seen in a pass of a tiny model, whose width has to be that of its heads together."""
    config = transformers.XLNetConfig(vocab_size=96, d_model=16 * heads, n_layer=2, n_head=heads, d_inner=48)
    torch.manual_seed(0)
    transformers.XLNetLMHeadModel(config).save_pretrained(tmp_path / "in")
    save_tokenizer(tmp_path / "in")
    report = compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("magnitude:0.5")])
    assert {matrix.shape for matrix in report.compression.matrices if ".rel_attn." in matrix.name} == {
        (16 * heads, 16 * heads)
    }
    assert report.compression.sparsity == 0.5
