"""Swapping weights between two models: what differs, in place, and back to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomia.compress.folder import compress_folder
from anomia.compress.options import FolderOptions
from anomia.compress.spec import parse_arm
from anomia.errors import ModelError
from anomia.locate.attribution import attribute
from anomia.locate.pairs import ModelPair, same_bits
from anomia.models.load import load_model

from ..compress.architectures import tiny
from ..compress.conftest import FAMILIES, MIXTURES, tiny_model
from ..compress.test_folder import save_model
from .conftest import damaged, pair_of
from .test_attribution import subjects

IDS = torch.arange(3, 23)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def bits(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(same_bits(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_everything_restored_is_base_and_everything_put_back_is_the_compressed_model(family: str) -> None:
    base, compressed = pair_of(family, dtype=torch.float32)
    mine, theirs, said = bits(base), bits(compressed), logits(base)
    pair = ModelPair(base, compressed)
    assert same(bits(pair.model), theirs)
    with pair.restored(pair.names) as model:
        assert same(bits(model), mine)
        assert same_bits(logits(model), said)
    assert same(bits(pair.model), theirs)


def test_units_are_all_parameters_that_differ_with_their_blocks_and_kinds() -> None:
    base, compressed = pair_of("llama")
    pair = ModelPair(base, compressed)
    kinds = {unit.name: (unit.block, unit.place, unit.kind) for unit in pair.units}
    assert kinds["model.layers.1.mlp.down_proj"] == (1, "mlp.down_proj", "matrix")
    assert kinds["model.layers.2.input_layernorm"] == (2, "input_layernorm", "norm")
    assert kinds["model.embed_tokens"] == (None, "model.embed_tokens", "embedding")
    assert kinds["lm_head"] == (None, "lm_head", "head")
    assert len(pair.units) == len(list(base.parameters()))
    assert (
        sum(unit.weights for unit in pair.units) == pair.weights == sum(p.numel() for p in base.parameters())
    )


def test_only_what_differs_is_a_unit() -> None:
    base = tiny_model("qwen2")
    pair = ModelPair(base, damaged(base, where=lambda name: name.endswith("1.self_attn.q_proj.bias")))
    (unit,) = pair.units
    assert (unit.name, unit.kind, unit.block) == ("model.layers.1.self_attn.q_proj.bias", "bias", 1)
    assert unit.changed == unit.weights == 32


def test_experts_of_a_fused_parameter_are_restored_one_by_one() -> None:
    base = tiny_model("qwen3_moe")
    compressed = copy.deepcopy(base)
    for expert in (1, 3):
        compressed.model.layers[0].mlp.experts.down_proj.data[expert] *= 0.5
    theirs = bits(compressed)
    pair = ModelPair(base, compressed)
    assert [unit.place for unit in pair.units] == ["mlp.experts.down_proj[1]", "mlp.experts.down_proj[3]"]
    with pair.restored([pair.names[1]]) as model:
        stack = model.model.layers[0].mlp.experts.down_proj
        assert torch.equal(stack[3], base.model.layers[0].mlp.experts.down_proj[3])
        assert not torch.equal(stack[1], base.model.layers[0].mlp.experts.down_proj[1])
    assert same(bits(pair.model), theirs)


@pytest.mark.parametrize("tied", ["both", "base", "compressed"])
def test_tied_embeddings(tied: str) -> None:
    base = tiny_model("llama_biases_tied", tie_word_embeddings=tied in ("both", "base"))
    compressed = tiny_model("llama_biases_tied", tie_word_embeddings=tied in ("both", "compressed"), seed=3)
    mine, theirs = logits(base), logits(compressed)
    pair = ModelPair(base, compressed)
    assert ("lm_head" in pair.names) is (tied != "both")
    assert same_bits(logits(pair.model), theirs)
    with pair.restored(pair.names) as model:
        assert same_bits(logits(model), mine)
    assert same_bits(logits(pair.model), theirs)


def test_an_exception_puts_everything_back() -> None:
    base, compressed = pair_of("gemma3", dtype=torch.float32)
    theirs = bits(compressed)
    pair = ModelPair(base, compressed)
    for swapped in (pair.restored(pair.names[:5]), pair.between(0.25)):
        with pytest.raises(AssertionError, match="spoiled"), swapped as model:
            assert same(bits(model), theirs), "spoiled"
        assert same(bits(pair.model), theirs)


def test_nan_and_minus_zero_keep_their_bits() -> None:
    base = tiny_model("llama")
    compressed = copy.deepcopy(base)
    row = compressed.model.layers[0].mlp.up_proj.weight.data[0]
    row[0], row[1] = -0.0, float("nan")
    base.model.layers[0].mlp.up_proj.weight.data[0, 0] = 0.0
    theirs = bits(compressed)
    pair = ModelPair(base, compressed)
    (unit,) = pair.units
    assert unit.changed == 2
    with pair.restored(pair.names):
        pass
    assert same(bits(pair.model), theirs)


def test_between_is_the_straight_path_with_both_ends_exact() -> None:
    base, compressed = pair_of("llama", dtype=torch.float32)
    mine, theirs = bits(base), bits(compressed)
    pair = ModelPair(base, compressed)
    with pair.between(1.0) as model:
        assert same(bits(model), mine)
    with pair.between(0.0) as model:
        assert same(bits(model), theirs)
    with pair.between(0.5) as model:
        name = "model.layers.0.mlp.up_proj.weight"
        assert torch.allclose(model.state_dict()[name], (mine[name] + theirs[name]) / 2)
    assert same(bits(pair.model), theirs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 2}, "layers were removed"),
        ({"intermediate_size": 20}, "made narrower"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}, "computed from settings"),
        ({"rms_norm_eps": 0.1}, "still computes something else"),
    ],
)
def test_models_that_differ_in_more_than_weights_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        ModelPair(tiny_model("llama"), tiny_model("llama", seed=1, **changes))


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match="one --dtype"):
        ModelPair(tiny_model("llama"), tiny_model("llama").to(torch.bfloat16))


def test_packed_weights_are_refused() -> None:
    compressed = tiny_model("llama")
    weight = compressed.model.layers[0].mlp.up_proj.weight
    compressed.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(
        weight.data.to(torch.int8), requires_grad=False
    )
    with pytest.raises(ModelError, match="packed weights"):
        ModelPair(tiny_model("llama"), compressed)


@pytest.mark.parametrize("save_as", ["compressed-tensors", "gptq"])
def test_packed_folders_are_compared_by_their_dense_values(save_as: Any, tmp_path: Path) -> None:
    """Loading unpacks them, as in a run; what is in memory is dense."""
    pytest.importorskip("compressed_tensors")
    save_model("llama", tmp_path / "in")
    steps = parse_arm("gptq:4,group=8,calibration=demo,samples=2,tokens=16").steps
    for folder, form in (("packed", save_as), ("dense", "dense")):
        compress_folder(str(tmp_path / "in"), tmp_path / folder, steps, FolderOptions(save_as=form))
    base, packed, dense = (
        load_model(str(tmp_path / name), dtype="float32", device="cpu").model
        for name in ("in", "packed", "dense")
    )
    said = logits(base)
    pair = ModelPair(base, packed)
    assert {unit.kind for unit in pair.units} == {"matrix"}
    for name in pair.parameters:
        assert torch.allclose(pair.parameters[name], dense.get_parameter(name), atol=1e-6)
    with pair.restored(pair.names) as model:
        assert same_bits(logits(model), said)


@pytest.mark.parametrize(
    ("family", "base", "other"),
    [
        ("mistral", {"sliding_window": 100}, {"sliding_window": 20}),
        ("gemma3", {"sliding_window": 100}, {"sliding_window": 20}),
        (
            "llama",
            {"max_position_embeddings": 32},
            {
                "max_position_embeddings": 32,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
            },
        ),
    ],
)
def test_settings_that_show_only_in_long_texts_are_refused_for_such_texts(
    family: str, base: dict[str, Any], other: dict[str, Any]
) -> None:
    """Windows and rotary positions change nothing in a short trial; what is asked here is 60 tokens long."""
    text = list(range(1, 61))
    with pytest.raises(ModelError, match="they differ in their settings"):
        ModelPair(tiny_model(family, **base), damaged(tiny_model(family, **other)), text)
    pair = ModelPair(tiny_model(family, **base), damaged(tiny_model(family, **base)), text)
    assert len(pair.units) > 0


def test_experts_one_below_the_other_are_one_unit() -> None:
    """Of DBRX, whose rows were taken for experts."""
    base = tiny("dbrx")
    pair = ModelPair(base, damaged(base, size=0.01))
    assert not any(unit.expert is not None for unit in pair.units)
    assert len(pair.units) == len(list(base.parameters()))
    found = attribute(pair, subjects(1, control=False, vocabulary=90))
    assert np.isfinite(found.gold).all()
    assert found.unreliable.sum() <= 1
