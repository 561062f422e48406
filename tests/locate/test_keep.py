"""Lists of matrices to keep dense: each tool's own functions leave out these matrices and no others."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from compressed_tensors.utils.match import match_named_modules
from torch import nn
from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig, quantize_

from anomia.locate.keep import (
    _name_maps,
    forms,
    gguf_name,
    keep_notes,
    kept_modules,
    name_map,
    stacks_of,
    write_keep,
)

from ..compress.conftest import FAMILIES, MIXTURES, tiny_model

KEPT = ["model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"]
STACKS = ["model.layers.0.mlp.experts.down_proj", "model.layers.1.mlp.experts.gate_up_proj"]
ARCHITECTURES = {
    "llama": "llama", "llama_biases_tied": "llama", "mistral": "llama", "mixtral": "llama", "gpt_neox": "gptneox",
    "qwen3_moe": "qwen3moe",
}  # fmt: skip
"""llama.cpp's names of families, where they differ."""


def test_the_forms_of_a_list() -> None:
    modules = ["model.layers.3.mlp.down_proj", "lm_head", "odd.down"]
    found = forms(modules)
    assert found["llm-compressor"] == {"ignore": modules}
    assert found["torchao"] == {
        "modules_to_not_convert": modules,
        "fqn_to_config": dict.fromkeys(modules),
    }
    assert next(iter(found["gptqmodel"]["dynamic"])) == r"-:^model\.layers\.3\.mlp\.down_proj$"
    assert found["llama.cpp"] == {
        "arguments": [
            "--tensor-type",
            r"^blk\.3\.ffn_down\.weight$=q8_0",
            "--tensor-type",
            r"^output\.weight$=q8_0",
        ],
        "without_a_name": ["odd.down"],
    }


def test_only_matrices_are_kept_and_experts_as_their_stack() -> None:
    kinds = {
        "a.norm": "norm",
        "a.experts.down_proj[0]": "matrix",
        "a.experts.down_proj[2]": "matrix",
        "b": "matrix",
    }
    assert kept_modules(list(kinds)[:3], kinds) == ["a.experts.down_proj"]
    assert stacks_of(kinds) == {"a.experts.down_proj"}


def test_what_a_list_cannot_hold_is_said_and_that_it_is_of_little_use() -> None:
    kinds = {"model.norm": "norm", "a.q": "matrix", "a.q.bias": "bias", "lm_head": "head"}
    assert keep_notes(["a.q", "lm_head"], kinds, found=True) == []
    (note,) = keep_notes(["model.norm", "a.q", "a.q.bias"], kinds, found=True)
    assert note.endswith("model.norm (norm), a.q.bias (bias)")
    assert "the list is empty" in keep_notes(["model.norm"], kinds, found=True)[1]
    (note,) = keep_notes(["a.q"], kinds, found=False, share=0.3)
    assert note.startswith("the damage is diffuse: this list (30 % of the differing weights)")
    assert "of little use" in note


def test_a_file_has_the_names_and_all_forms(tmp_path: Path) -> None:
    file = tmp_path / "dense.json"
    write_keep(file, STACKS[:1], STACKS, sentence="Half comes back.", notes=["not all"])
    found = json.loads(file.read_text())
    assert found["notes"] == ["not all"]
    assert found["dense"] == STACKS[:1]
    assert found["llm-compressor"] == forms(STACKS[:1], STACKS)["llm-compressor"]


def as_linear(family: str) -> nn.Module:
    """A tiny model; each expert of a stack as modules, under the names that llm-compressor and GPTQModel give them."""
    model = tiny_model(family)
    for module in list(model.modules()):
        if isinstance(getattr(module, "gate_up_proj", None), nn.Parameter):
            for index in range(len(module.gate_up_proj)):
                names = ("gate_proj", "up_proj", "down_proj")
                module.add_module(str(index), nn.ModuleDict({name: nn.Linear(2, 2) for name in names}))
    return model


def linears(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def meant(model: nn.Module, modules: list[str]) -> set[str]:
    """The modules of a model that a list names, with those of each expert of a stack."""
    parts = {
        "model.layers.0.mlp.experts.down_proj": r"model.layers.0.mlp.experts.\d.down_proj",
        "model.layers.1.mlp.experts.gate_up_proj": r"model.layers.1.mlp.experts.\d.(up|gate)_proj",
    }
    return {
        name for name in linears(model) if any(re.fullmatch(parts.get(each, each), name) for each in modules)
    }


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3", "qwen3_moe", "mixtral"])
def test_llm_compressor_and_gptqmodel_leave_out_what_is_listed(family: str) -> None:
    model = as_linear(family)
    modules = [*KEPT[1:], *(STACKS if family in MIXTURES else KEPT[:1])]
    expected = meant(model, modules)
    assert len(expected) == (1 + 4 + 8 if family in MIXTURES else 2)
    found = forms(modules, STACKS)
    matched = {name for name, _ in match_named_modules(model, ["Linear"], found["llm-compressor"]["ignore"])}
    assert linears(model) - matched == expected
    # GPTQModel matches from the start of a name.
    patterns = [key.removeprefix("-:") for key in found["gptqmodel"]["dynamic"]]
    assert {name for name in linears(model) if any(re.match(each, name) for each in patterns)} == expected


def unquantized(model: nn.Module) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module.weight.data) in (torch.Tensor, nn.Parameter)
    }


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
def test_torchao_leaves_out_what_is_listed_and_the_head_as_without_a_list(
    family: str, tmp_path: Path
) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    modules = [*KEPT[1:], *(STACKS if family in MIXTURES else KEPT[:1])]
    listed = json.loads(json.dumps(forms(modules, STACKS)))["torchao"]
    eight = Int8WeightOnlyConfig()
    by_name = FqnToConfig(OrderedDict({**listed["fqn_to_config"], "re:.+_proj": eight}))
    expected = set(modules) - set(STACKS)

    def loaded(quantization: Any, **settings: Any) -> nn.Module:
        config = transformers.TorchAoConfig(quantization, **settings)
        found: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=config
        )
        return found

    assert unquantized(loaded(eight)) == {"lm_head"}
    names = listed["modules_to_not_convert"]
    assert unquantized(loaded(eight, modules_to_not_convert=names)) == {*expected, "lm_head"}
    assert unquantized(loaded(by_name)) == {*expected, "lm_head"}
    quantize_(model, by_name, filter_fn=None)
    assert unquantized(model) == {*expected, "lm_head"}


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_names_in_gguf_are_those_of_the_family(family: str) -> None:
    wanted = ARCHITECTURES.get(family, family)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == wanted)
    names = name_map(arch, 3)
    seen = 0
    for name, parameter in tiny_model(family).named_parameters():
        if parameter.dim() < 2:
            continue
        module = name.removesuffix(".weight")
        theirs = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if module.endswith("experts.gate_up_proj"):
            theirs = f"blk.{module.split('.')[2]}.ffn_gate_up_exps.weight"
        assert theirs is not None
        assert gguf_name(module) == theirs, module
        seen += 1
    assert seen > 10


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("model.layers.11.mlp.down_proj", "blk.11.ffn_down.weight"),
        ("model.language_model.layers.7.self_attn.q_proj", "blk.7.attn_q.weight"),
        ("language_model.model.layers.7.self_attn.q_proj", "blk.7.attn_q.weight"),
        ("model.embed_tokens", "token_embd.weight"),
        ("model.vision_tower.vision_model.encoder.layers.3.self_attn.q_proj", None),
        ("model.layers.3.mlp.odd", None),
    ],
)
def test_names_in_gguf(module: str, name: str | None) -> None:
    assert gguf_name(module) == name


def test_a_pattern_for_llama_cpp_matches_one_block_and_both_parts_of_a_stack() -> None:
    words = forms(["model.layers.1.mlp.down_proj", *STACKS], STACKS)["llama.cpp"]["arguments"]
    patterns = [word.removesuffix("=q8_0") for word in words[1::2]]
    tensors = [
        f"blk.{block}.{name}.weight"
        for block in (0, 1, 11)
        for name in ("ffn_down", "ffn_down_exps", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_gate")
    ]  # fmt: skip
    assert [tensor for tensor in tensors if any(re.search(each, tensor) for each in patterns)] == [
        "blk.0.ffn_down_exps.weight",
        "blk.1.ffn_down.weight",
        "blk.1.ffn_gate_exps.weight",
        "blk.1.ffn_up_exps.weight",
        "blk.1.ffn_gate_up_exps.weight",
    ]


def test_looking_names_up_leaves_the_tables_of_gguf_as_they_are() -> None:
    """They are of the class, so that files could no longer be read after a list was written."""
    before = dict(gguf.TensorNameMap.block_mappings_cfg)
    _name_maps.cache_clear()
    gguf_name("model.layers.3.mlp.down_proj")
    assert before == gguf.TensorNameMap.block_mappings_cfg
