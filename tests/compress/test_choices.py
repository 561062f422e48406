"""Routers are known by what their outputs do in a pass: they choose among experts, whatever their number and name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from anomia.compress import routers
from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.left_dense import ROUTER, why_dense
from anomia.compress.matrices import find_matrices
from anomia.models.tensors import skeleton

from .architectures import tiny
from .conftest import make_test_windows
from .test_folder import step_of

EXPERTS, HIDDEN = 4, 32


class WithNone(nn.Module):
    """A mixture whose router has more outputs than there are experts: those after the last expert add nothing."""

    def __init__(self, experts: nn.Module, more: int) -> None:
        super().__init__()
        self.experts = experts
        self.wg = nn.Linear(HIDDEN, EXPERTS + more, bias=False)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        return self.wg(states).softmax(dim=-1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, HIDDEN)
        weights, chosen = self.scores(flat).topk(2, dim=-1)
        none = chosen >= EXPERTS
        out = self.experts(flat, chosen.masked_fill(none, 0), weights.masked_fill(none, 0))
        return out.reshape(states.shape)


class ByGroup(WithNone):
    """The router chooses one of two groups first, with a layer of its own, as wide as there are groups."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__(experts, 0)
        self.first = nn.Linear(HIDDEN, 2)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        group = self.first(states).argmax(dim=-1, keepdim=True)
        return super().scores(states) * (torch.arange(EXPERTS) // 2 == group)


class Soft(WithNone):
    """Every token goes to every expert and to nothing, weighed by a softmax."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, HIDDEN)
        weights = self.scores(flat)[:, :EXPERTS]
        chosen = torch.arange(EXPERTS).expand_as(weights)
        return self.experts(flat, chosen, weights).reshape(states.shape)


class Beside(WithNone):
    """A layer beside the experts with an output more than there are experts, of which nothing is chosen."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__(experts, 0)
        self.wide = nn.Linear(HIDDEN, EXPERTS + 1, bias=False)
        self.back = nn.Parameter(torch.randn(EXPERTS + 1, HIDDEN) / 8)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return super().forward(states) + self.wide(states).tanh() @ self.back


def model_with(kind: type[WithNone], *more: Any) -> Any:
    """A Mixtral with other mixtures."""
    model = tiny("mixtral")
    torch.manual_seed(0)
    for layer in model.model.layers:
        layer.mlp = kind(layer.mlp.experts, *more).requires_grad_(False)
    return model


def dense_of(model: Any) -> set[str]:
    """The routers of the first block, by their names there."""
    return {name.split(".", 3)[3] for name in all_routers(model) if ".0." in name}


def all_routers(model: Any) -> set[str]:
    """The routers of all blocks, by their names in the model."""
    return {name for name, why in why_dense(model, find_blocks(model)).items() if why == ROUTER}


@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "int8"])
@pytest.mark.parametrize("more", [1, 2, 4])
def test_a_router_with_more_outputs_than_experts_keeps_every_bit(more: int, arm: str) -> None:
    model = model_with(WithNone, more)
    before = copy.deepcopy(model)
    report = compress(model, step_of(arm), make_test_windows([24] * 4) if arm.startswith("wanda") else None)
    for layer, old in zip(model.model.layers, before.model.layers, strict=True):
        assert torch.equal(layer.mlp.wg.weight, old.mlp.wg.weight)
    assert dense_of(model) == {"mlp.wg.weight"}
    assert not [matrix for matrix in report.matrices if "wg" in matrix.name]
    assert any("experts" in matrix.name for matrix in report.matrices)


def test_a_router_outside_of_the_mixture_is_found() -> None:
    """It is in the block, and gives its choice to the mixture."""
    model = tiny("mixtral")

    class Block(nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.experts = inner, inner.mlp.experts
            self.chooser = nn.Sequential(nn.Linear(HIDDEN, 8), nn.Tanh(), nn.Linear(8, EXPERTS + 1))
            inner.mlp = nn.Identity()

        def forward(self, states: torch.Tensor, **given: Any) -> torch.Tensor:
            states = self.inner(states, **given)
            flat = states.reshape(-1, HIDDEN)
            weights, chosen = self.chooser(flat).topk(2, dim=-1)
            return states + self.experts(flat, chosen.clamp(max=EXPERTS - 1), weights).reshape(states.shape)

    model.model.layers = nn.ModuleList(Block(layer) for layer in model.model.layers)
    names = {matrix.name for matrix in find_matrices(find_blocks(model).modules[0], where="b")}
    assert "chooser.2" not in names
    assert {"inner.self_attn.q_proj", "inner.self_attn.o_proj"} <= names


def test_a_choice_of_groups_is_found() -> None:
    assert dense_of(model_with(ByGroup)) == {"mlp.wg.weight", "mlp.first.weight"}


@pytest.mark.parametrize("more", [0, 3])
def test_a_softmax_over_experts_is_found(more: int) -> None:
    assert dense_of(model_with(Soft, more)) == {"mlp.wg.weight"}


def test_a_layer_that_chooses_nothing_is_pruned() -> None:
    model = model_with(Beside)
    assert dense_of(model) == {"mlp.wg.weight"}
    assert "mlp.wide" in {matrix.name for matrix in find_matrices(find_blocks(model).modules[0], where="b")}


def test_without_a_pass_one_more_output_than_experts_is_a_router() -> None:
    """A model that can't be run on tokens alone."""
    model = model_with(WithNone, 1)
    for layer in model.model.layers:
        layer.mlp.forward = lambda states: None
    assert dense_of(model) == {"mlp.wg.weight"}


@pytest.mark.parametrize("training", [True, False])
def test_the_pass_leaves_the_model_as_it_was(training: bool) -> None:
    model = model_with(WithNone, 1).train(training)
    before = copy.deepcopy(model.state_dict())
    find_blocks(model)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "kind", ["hunyuan_v1_moe", "phimoe", "longcat_flash", "dbrx", "jetmoe", "llama4_text", "zaya"]
)
def test_routers_need_no_name(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a model whose weights aren't loaded."""
    model = tiny(kind)
    named = all_routers(model)
    assert named
    monkeypatch.setattr(routers, "_is_named_router", lambda *_: False)
    for each in (tiny(kind), skeleton(model.config)):
        assert all_routers(each) == named


def test_a_mixture_that_is_put_in_later_is_seen() -> None:
    """Notes on layers that are gone don't count."""
    model = tiny("mixtral")
    find_blocks(model)
    for layer in model.model.layers:
        layer.mlp = WithNone(layer.mlp.experts, 2)
    assert dense_of(model) == {"mlp.wg.weight"}


def test_a_dense_model_is_not_run() -> None:
    """It has no experts to choose."""
    model = transformers.AutoModelForCausalLM.from_config(tiny("llama").config)
    model.forward = None
    find_blocks(model)
