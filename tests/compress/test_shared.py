"""Weights that a model has in several places, or computes in each pass: done right, or refused before anything changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from anomia.compress import shared
from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.left_dense import why_dense
from anomia.compress.methods import awq
from anomia.errors import CompressionError

from .architectures import tiny
from .conftest import make_test_windows, tiny_model
from .test_folder import step_of

IDS = torch.arange(5, 25)[None]
WINDOWS = make_test_windows([20] * 4)


def run(model: Any, arm: str, **options: Any) -> Any:
    calibrated = arm.partition(":")[0] not in ("magnitude", "int8", "embeddings")
    return compress(model, step_of(arm), WINDOWS if calibrated else None, **options)


def unchanged(model: Any, before: Any) -> bool:
    mine, theirs = model.state_dict(), before.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def layer_of(model: Any) -> Any:
    return model.model.layers[1].mlp.up_proj


COMPUTED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "weight_norm": (parametrizations.weight_norm, r"parametrize\.remove_parametrizations\(layer, 'weight'\)"),
    "spectral_norm": (parametrizations.spectral_norm, "parametrize.remove_parametrizations"),
    "orthogonal": (parametrizations.orthogonal, "parametrize.remove_parametrizations"),
    "old weight_norm": (weight_norm, "utils.remove_weight_norm"),
    "old spectral_norm": (spectral_norm, "utils.remove_spectral_norm"),
    "pruned": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.1),
        r"prune\.remove\(layer, 'weight'\)",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "int8", "gptq:4,group=8", "wanda:0.5+update"])
@pytest.mark.parametrize("kind", list(COMPUTED))
def test_a_weight_that_is_computed_in_each_pass_is_refused(kind: str, arm: str) -> None:
    """A copy of it lost its weights, and the forward pass computed it anew."""
    change, remedy = COMPUTED[kind]
    model = tiny_model("llama")
    change(layer_of(model))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        CompressionError, match=f"model.layers.1.mlp.up_proj.weight is no parameter.*{remedy}"
    ):
        run(model, arm)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5"])
def test_the_remedies_work(arm: str) -> None:
    """What is reported is what the forward pass then uses."""
    model = tiny_model("llama")
    layers = model.model.layers
    prune.l1_unstructured(layers[1].mlp.up_proj, "weight", 0.1)
    prune.remove(layers[1].mlp.up_proj, "weight")
    parametrizations.weight_norm(layers[0].mlp.up_proj)
    nn.utils.parametrize.remove_parametrizations(layers[0].mlp.up_proj, "weight")
    used: dict[str, float] = {}
    report = run(model, arm)
    for index in (0, 1):
        layers[index].mlp.up_proj.register_forward_hook(
            lambda layer, *_, index=index: used.update(
                {f"model.layers.{index}.mlp.up_proj": float((layer.weight == 0).float().mean())}
            )
        )
    model(input_ids=IDS)
    told = {matrix.name: matrix.sparsity for matrix in report.matrices}
    assert used == {name: pytest.approx(told[name]) for name in used}
    assert len(used) == 2


def test_a_stack_that_is_computed_in_each_pass_is_refused() -> None:
    """It stayed dense without a word."""
    model = tiny_model("mixtral")
    experts = model.model.layers[1].mlp.experts

    class Halved(nn.Module):
        def forward(self, stack: torch.Tensor) -> torch.Tensor:
            return stack / 2

    nn.utils.parametrize.register_parametrization(experts, "gate_up_proj", Halved())
    with pytest.raises(CompressionError, match=r"model.layers.1.mlp.experts.gate_up_proj is no parameter"):
        run(model, "magnitude:0.5")
    masked = tiny_model("mixtral")
    prune.l1_unstructured(masked.model.layers[1].mlp.experts, "down_proj", 0.1)
    with pytest.raises(CompressionError, match=r"mlp.experts.down_proj is no parameter"):
        run(masked, "wanda:0.5")


def test_a_computed_weight_that_no_step_changes_is_no_obstacle() -> None:
    model = tiny_model("mixtral")
    parametrizations.weight_norm(model.model.embed_tokens)
    parametrizations.weight_norm(model.model.layers[1].self_attn.q_proj)
    report = run(model, "magnitude:0.5", dense=["model.layers.1.self_attn.q_proj"])
    assert report.sparsity > 0.4
    with pytest.raises(CompressionError, match=r"model.embed_tokens.weight is no parameter"):
        run(model, "embeddings:q8_0")


TIED: dict[str, Callable[[Any], nn.Parameter]] = {
    "one parameter": lambda model: model.model.embed_tokens.weight,
    "a part of its memory": lambda model: nn.Parameter(model.model.embed_tokens.weight.data[8:32]),
    "transposed": lambda model: nn.Parameter(model.model.embed_tokens.weight.data[:16].T),
    "a head": lambda model: nn.Parameter(model.lm_head.weight.data),
}


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "int8"])
@pytest.mark.parametrize("kind", list(TIED))
def test_a_matrix_tied_to_something_outside_of_the_blocks_is_refused(kind: str, arm: str) -> None:
    """The embedding lost weights, too, and was listed as dense."""
    model = tiny_model("llama")
    tied = TIED[kind](model)
    layer = nn.Linear(16, len(tied), bias=False)
    layer.weight = tied
    model.model.layers[1].mlp.gate_proj = nn.Sequential(layer, nn.Linear(len(tied), 24, bias=False))
    before = copy.deepcopy(model)
    with pytest.raises(
        CompressionError, match=r"model\.layers\.1\.mlp\.gate_proj\.0\.weight and \S+ are the same weights"
    ):
        run(model, arm)
    assert unchanged(model, before)
    report = run(model, arm, dense=["model.layers.1.mlp.gate_proj.0"])
    assert torch.equal(layer.weight, before.model.layers[1].mlp.gate_proj[0].weight)
    assert report.matrices


def test_a_table_tied_to_a_matrix_is_not_rounded() -> None:
    model = tiny_model("llama")
    layer_of(model).weight = nn.Parameter(model.model.embed_tokens.weight.data[:24])
    before = copy.deepcopy(model)
    with pytest.raises(
        CompressionError, match=r"embed_tokens.weight and model.layers.1.mlp.up_proj.weight are the same"
    ):
        run(model, "embeddings:q8_0")
    assert unchanged(model, before)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize(("one", "other"), [((1, "k_proj"), (1, "v_proj")), ((0, "v_proj"), (2, "k_proj"))])
@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "int8"])
def test_a_matrix_in_two_places_of_the_blocks_is_compressed_once(
    arm: str, one: tuple[int, str], other: tuple[int, str], memory: bool
) -> None:
    """In the second place it was compressed again, by other scores; memory: as two parameters."""
    model = tiny_model("llama")
    first, second = (getattr(model.model.layers[i].self_attn, name) for i, name in (one, other))
    second.weight = nn.Parameter(first.weight.data) if memory else first.weight
    report = run(model, arm)
    name = f"model.layers.{other[0]}.self_attn.{other[1]}"
    assert name not in {matrix.name for matrix in report.matrices}
    assert f"{name}.weight" not in report.left_dense
    assert not {f"{name}.weight"} & set(why_dense(model, find_blocks(model)))
    told = {matrix.name: matrix.zeros for matrix in report.matrices}
    assert told[f"model.layers.{one[0]}.self_attn.{one[1]}"] == int((second.weight == 0).sum())
    if arm == "wanda:0.5":
        assert any("share matrices" in text for text in report.warnings)


def test_a_matrix_in_two_places_is_scored_by_the_inputs_of_both() -> None:
    model = tiny_model("llama")
    layers = model.model.layers
    layers[2].self_attn.k_proj.weight = layers[0].self_attn.v_proj.weight
    dense = copy.deepcopy(model)
    squares = torch.zeros(16)

    def add(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        squares.add_(args[0].reshape(-1, 16).pow(2).sum(dim=0))

    for index, name in ((0, "v_proj"), (2, "k_proj")):
        getattr(dense.model.layers[index].self_attn, name).register_forward_pre_hook(add)
    with torch.no_grad():
        for ids in WINDOWS.token_ids:
            dense(input_ids=torch.tensor([ids]))
    run(model, "wanda:0.5")
    before = dense.model.layers[0].self_attn.v_proj.weight
    scores = before.abs() * squares.sqrt()
    lowest = scores.sort(dim=1, stable=True).indices[:, :8]
    expected = torch.zeros_like(before, dtype=torch.bool).scatter_(1, lowest, True)
    assert torch.equal(layers[0].self_attn.v_proj.weight == 0, expected)


@pytest.mark.parametrize(
    "kind", ["llama", "mixtral", "gpt2", "zamba", "zamba2", "hrm_text", "xlnet", "bart", "bloom"]
)
def test_models_of_transformers_share_nothing_that_is_refused(kind: str) -> None:
    model = tiny(kind)
    decoder = find_blocks(model)
    assert not [block for block in decoder.modules if block.__dict__[shared._TIED]]


def test_a_second_name_of_the_blocks_is_no_second_place() -> None:
    model = tiny_model("llama", num_key_value_heads=4)
    model.other = nn.ModuleDict({"blocks": model.model.layers})
    blocks = find_blocks(model).modules
    assert not [block for block in blocks if block.__dict__[shared._TIED] or shared.names_elsewhere(block)]


def test_columns_of_one_memory_are_apart() -> None:
    """Their spans overlap; their elements don't."""
    both = torch.randn(6, 8)
    places = [shared.WeightPlace(name, part) for name, part in (("a", both[:, :4]), ("b", both[:, 4:]))]
    assert not shared.overlapping(places)
    places.append(shared.WeightPlace("c", both[2, 3:5]))
    found = shared.overlapping(places)
    assert {path for paths in found.values() for path in paths} == {"a", "b", "c"}


class Exact:
    """A matrix that is quantized without an error."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight

    def values(self) -> torch.Tensor:
        return self._weight


def scaled_only(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """AWQ without rounding, so that only its scales change weights. Returns how many groups got some."""
    found: list[int] = []
    search = awq.search_scales

    def searching(*args: Any, **options: Any) -> Any:
        with monkeypatch.context() as inner:
            inner.setattr(awq, "_loss", lambda _, __, scales, ___: -float(scales.log().abs().sum()))
            best = search(*args, **options)
        found.append(int((best.scales != 1).any()))
        return best

    monkeypatch.setattr(awq, "search_scales", searching)
    monkeypatch.setattr(awq, "round_to_nearest", lambda weight, *_, **__: Exact(weight))
    return found


def share_norm(model: Any) -> None:
    model.model.layers[2].input_layernorm = model.model.layers[0].input_layernorm


def share_norm_weight(model: Any) -> None:
    model.model.layers[1].post_attention_layernorm.weight = model.model.layers[0].input_layernorm.weight


def share_norm_memory(model: Any) -> None:
    weight = model.model.layers[2].post_attention_layernorm.weight.data
    model.model.layers[0].input_layernorm.weight = nn.Parameter(weight)


def share_last_norm(model: Any) -> None:
    model.model.norm = model.model.layers[1].input_layernorm


@pytest.mark.parametrize("share", [share_norm, share_norm_weight, share_norm_memory, share_last_norm])
def test_scales_are_not_folded_into_a_norm_of_several_blocks(
    share: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other block read the norm, too, and its function changed."""
    model = tiny_model("llama", num_key_value_heads=4)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data = 1 + 0.3 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    share(model)
    dense = copy.deepcopy(model)
    found = scaled_only(monkeypatch)
    report = run(model, "awq:4,group=8")
    assert sum(found) > 3
    with torch.no_grad():
        before, after = (each(input_ids=IDS).logits for each in (dense, model))
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))
    noted = {matrix.name for matrix in report.matrices if matrix.note == awq.NO_PRODUCER}
    assert noted
    assert not unchanged(model, dense)


def test_scales_are_folded_into_every_norm_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", num_key_value_heads=4)
    dense = copy.deepcopy(model)
    scaled_only(monkeypatch)
    report = run(model, "awq:4,group=8")
    assert not [matrix for matrix in report.matrices if matrix.note]
    with torch.no_grad():
        before, after = (each(input_ids=IDS).logits for each in (dense, model))
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-4 * float(before.abs().max()))


def test_channels_are_not_reordered_whose_biases_another_block_has() -> None:
    model = tiny_model("llama_biases_tied")
    layers = model.model.layers
    layers[2].mlp.up_proj.bias = layers[0].mlp.up_proj.bias
    dense = copy.deepcopy(model)
    report = run(model, "ria:2:4")
    assert torch.equal(layers[0].mlp.up_proj.bias, dense.model.layers[0].mlp.up_proj.bias)
    reordered = {m.name for m in report.matrices if "reordered" in m.note}
    assert "model.layers.1.mlp.down_proj" in reordered
    assert not {"model.layers.0.mlp.down_proj", "model.layers.2.mlp.down_proj"} & reordered
