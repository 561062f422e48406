"""Attribution: exact where the model is linear, complete elsewhere, equal to plain gradients, and it finds a planted fault."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anomia.locate.attribution import Margin, Margins, attribute, simpson
from anomia.locate.pairs import ModelPair

from ..compress.architectures import tiny
from ..compress.conftest import FAMILIES, MIXTURES, tiny_model
from .conftest import damaged, pair_of


class Linear(nn.Module):
    """Embeddings, two linear blocks one after the other, and a head: the margin is a polynomial in the weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(30, 6)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6)) for _ in range(2))
        self.head = nn.Linear(6, 30, bias=False)
        self.double()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    @property
    def base_model(self) -> nn.Module:
        return self

    base_model_prefix = ""

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        states = self.embed(input_ids).cumsum(1)
        for block in self.blocks:
            states = block(states)
        return SimpleNamespace(logits=self.head(states))

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype


def subjects(count: int = 4, *, vocabulary: int = 96, control: bool = True, seed: int = 0) -> list[Margins]:
    """Random prefixes of unequal length; some controls are read after another prefix than gold."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, vocabulary, (size,), generator=generator).tolist())

    found = []
    for number in range(count):
        prefix = draw(26 + 3 * number)
        token, rival, other = torch.randperm(vocabulary, generator=generator)[:3].tolist()
        at = prefix if number % 2 else (*prefix, other)
        mine = Margin(at, other, rival) if control and number != 3 else None
        found.append(Margins(f"item-{number}", Margin(prefix, token, rival), mine))
    return found


def margin_of(model: Any, margin: Margin) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([margin.prefix]), use_cache=False).logits[0, -1]
    return logits[margin.token] - logits[margin.rival]


def by_autograd(pair: ModelPair, margin: Margin, points: int) -> dict[str, float]:
    """The shares of parameters by plain gradients of the weights."""
    names, parameters = list(pair.parameters), list(pair.parameters.values())
    total = dict.fromkeys(names, 0.0)
    for alpha, weight in simpson(points):
        with pair.between(alpha):
            for parameter in parameters:
                parameter.requires_grad_(True)
            found = torch.autograd.grad(margin_of(pair.model, margin), parameters, allow_unused=True)
            for parameter in parameters:
                parameter.requires_grad_(False)
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    total[name] += weight * float((gradient * pair.delta(name)).sum())
    return total


def in_parameters(pair: ModelPair, row: np.ndarray) -> dict[str, float]:
    found = dict.fromkeys(pair.parameters, 0.0)
    for unit, value in zip(pair.units, row, strict=True):
        found[unit.parameter] += float(value)
    return found


def inputs_of(model: Any, prefix: tuple[int, ...], ends: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The inputs of the modules with such names."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, args, __, name=name: seen.__setitem__(name, args[0]))
        for name, module in model.named_modules()
        if name.endswith(ends)
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([prefix]), use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def test_simpson_integrates_cubics_exactly() -> None:
    for points in (3, 5, 9):
        assert sum(weight for _, weight in simpson(points)) == pytest.approx(1)
        assert sum(weight * at**3 for at, weight in simpson(points)) == pytest.approx(1 / 4)
    for points in (1, 2, 4):
        with pytest.raises(ValueError, match="odd"):
            simpson(points)


def test_one_changed_matrix_of_a_linear_model_carries_the_whole_change() -> None:
    base = Linear(0)
    compressed = damaged(base, size=1.0, where=lambda name: name == "blocks.1.0.weight")
    pair = ModelPair(base, compressed)
    found = attribute(pair, subjects(vocabulary=30, count=3), points=3)
    assert found.units == ("blocks.1.0",)
    assert np.allclose(found.gold[:, 0], found.ends[:, 1] - found.ends[:, 0], atol=1e-12)
    assert np.allclose(found.control[:, 0], found.control_ends[:, 1] - found.control_ends[:, 0], atol=1e-12)


def test_a_product_of_changed_matrices_is_exact_too() -> None:
    """Of embeddings, two blocks and the head, a polynomial of the fourth degree: its gradient is a cubic."""
    pair = ModelPair(base := Linear(0), damaged(base, size=1.0))
    asked = subjects(vocabulary=30, count=3)
    found = attribute(pair, asked, points=3)
    assert found.residuals == pytest.approx(np.zeros(3), abs=1e-10)
    assert not found.by_gradient
    for row, each in zip(found.gold, asked, strict=True):
        assert in_parameters(pair, row) == pytest.approx(by_autograd(pair, each.gold, 3))


def test_by_hand() -> None:
    """m = (h_token − h_rival) · (W s + b), with only W and b changed: a_W = (h_t − h_r) ΔW s, a_b = (h_t − h_r) Δb."""
    base = Linear(0)
    pair = ModelPair(
        base, compressed := damaged(base, size=1.0, where=lambda name: name.startswith("blocks.1."))
    )
    (each,) = subjects(vocabulary=30, count=1)
    found = attribute(pair, [each])
    first = base.blocks[0][0]
    state = first(base.embed(torch.tensor(each.gold.prefix)).sum(0))
    side = base.head.weight[each.gold.token] - base.head.weight[each.gold.rival]
    delta = {name: pair.delta(name) for name in pair.parameters}
    assert found.gold[0, 0] == pytest.approx(float(side @ delta["blocks.1.0.weight"] @ state))
    assert found.gold[0, 1] == pytest.approx(float(side @ delta["blocks.1.0.bias"]))
    with torch.no_grad():
        assert found.ends[0, 0] == pytest.approx(float(margin_of(compressed, each.gold)))
    moved = (
        first(base.embed(torch.tensor(each.gold.prefix)).cumsum(0)) @ delta["blocks.1.0.weight"].T
    ).norm()
    assert found.moved[0, 0] == pytest.approx(float(moved))


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_shares_equal_plain_gradients_in_every_family(family: str) -> None:
    # Products of many experts' matrices at once exist in float32 only.
    dtype, tolerance = (torch.float64, 1e-5) if family in FAMILIES else (torch.float32, 1e-4)
    pair = ModelPair(*pair_of(family, dtype=dtype))
    asked = subjects()
    found = attribute(pair, asked, points=3)
    for number, each in enumerate(asked):
        true = by_autograd(pair, each.gold, 3)
        assert in_parameters(pair, found.gold[number]) == pytest.approx(
            true, rel=tolerance, abs=1e-2 * tolerance
        )
        if each.control is None:
            assert np.isnan(found.control[number]).all()
        else:
            true = by_autograd(pair, each.control, 3)
            assert in_parameters(pair, found.control[number]) == pytest.approx(
                true, rel=tolerance, abs=tolerance
            )
    # Of a mixture, the stacks of experts and the router.
    apart = {name.rpartition(".mlp.")[2] for name in found.by_gradient}
    mixture = {"experts.gate_up_proj", "experts.down_proj", "gate.weight"}
    assert apart == (set() if family in FAMILIES else mixture)


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shares_are_complete_with_enough_points(family: str, dtype: torch.dtype) -> None:
    pair = ModelPair(*pair_of(family, dtype=dtype))
    found = attribute(pair, subjects(3, control=False), points=17)
    missing = np.abs(found.gold.sum(axis=1) - (found.ends[:, 1] - found.ends[:, 0]))
    # In float32, an item whose shares cancel can't be told more exactly than the shares themselves.
    assert (missing < 1e-4 * np.abs(found.gold).sum(axis=1)).all()
    if dtype == torch.float64:
        assert np.abs(found.residuals).max() < 1e-4
    assert not found.unreliable.any()


def test_a_bias_that_is_read_past_its_module_has_its_share_too() -> None:
    """Jamba reads the bias of `dt_proj` by itself; its share is too small to count in the sum, and was 0."""
    base = tiny("jamba")
    pair = ModelPair(base, damaged(base, size=0.01))
    (asked,) = subjects(1, control=False, vocabulary=90)
    found = attribute(pair, [asked], points=3)
    true, mine = by_autograd(pair, asked.gold, 3), in_parameters(pair, found.gold[0])
    biases = [name for name in true if name.endswith("dt_proj.bias")]
    assert biases
    for name in biases:
        assert mine[name] == pytest.approx(true[name], rel=1e-2)
        assert mine[name] != 0


@pytest.mark.parametrize("kind", ["bloom", "mamba", "opt", "falcon", "cohere2", "zamba2", "phi", "glm4"])
def test_shares_equal_plain_gradients_in_other_architectures(kind: str) -> None:
    base = tiny(kind).double()
    pair = ModelPair(base, damaged(base, size=0.01))
    asked = subjects(2, control=False)
    found = attribute(pair, asked, points=3)
    for number, each in enumerate(asked):
        true = by_autograd(pair, each.gold, 3)
        assert in_parameters(pair, found.gold[number]) == pytest.approx(true, rel=1e-6, abs=1e-8)


def test_batches_change_nothing() -> None:
    pair = ModelPair(*pair_of("gemma3"))
    asked = subjects(6)
    together, alone = attribute(pair, asked), attribute(pair, asked, batch_tokens=0)
    assert np.allclose(together.gold, alone.gold)
    assert np.allclose(together.moved, alone.moved)
    assert np.allclose(together.control, alone.control, equal_nan=True)


def test_tied_embeddings_count_both_uses() -> None:
    base = tiny_model("gemma3", tie_word_embeddings=True).double()
    pair = ModelPair(base, damaged(base, where=lambda name: "embed_tokens" in name))
    (each,) = subjects(1)
    found = attribute(pair, [each], points=9)
    assert found.units == ("model.embed_tokens",)
    assert found.gold[0, 0] == pytest.approx(by_autograd(pair, each.gold, 9)["model.embed_tokens.weight"])


def test_the_norm_of_the_change_is_that_of_the_output_in_base() -> None:
    base = tiny_model("llama").double()
    pair = ModelPair(
        base, damaged(base, where=lambda name: name.endswith(("up_proj.weight", "lm_head.weight")))
    )
    asked = subjects(2)
    found = attribute(pair, asked)
    for number, each in enumerate(asked):
        seen = inputs_of(base, each.gold.prefix, ("up_proj", "lm_head"))
        for column, name in enumerate(found.units):
            inputs = seen[name][0, -1:] if name == "lm_head" else seen[name][0]
            true = (inputs @ pair.delta(f"{name}.weight").T).norm()
            assert found.moved[number, column] == pytest.approx(float(true))


def test_a_large_change_with_three_points_is_called_unreliable_and_with_more_is_not() -> None:
    base = tiny_model("llama").double()
    pair = ModelPair(base, damaged(base, size=0.5))
    asked = subjects(6)
    assert attribute(pair, asked, points=3).unreliable.any()
    assert not attribute(pair, asked, points=65).unreliable.any()


def test_a_model_and_its_copy_are_left_as_they_were() -> None:
    base, compressed = (model.requires_grad_(False) for model in pair_of("llama"))
    before = copy.deepcopy(compressed.state_dict())
    pair = ModelPair(base, compressed)
    attribute(pair, subjects())
    assert all(torch.equal(before[name], value) for name, value in compressed.state_dict().items())
    assert not any(parameter.requires_grad for parameter in compressed.parameters())
    assert not any(module._forward_hooks for module in compressed.modules())


def test_a_planted_fault_is_ranked_first() -> None:
    """One matrix is damaged much more than the others: it carries the most in each of 20 models."""
    first = 0
    for seed in range(20):
        base = tiny_model("llama", seed=seed).double()
        matrices = [name for name, p in base.named_parameters() if "layers" in name and p.dim() == 2]
        planted = matrices[(7 * seed) % len(matrices)]
        compressed = damaged(base, size=0.002, where=lambda name: "layers" in name)
        noise = torch.randn(base.get_parameter(planted).shape, dtype=torch.float64)
        compressed.get_parameter(planted).data += 0.03 * noise
        pair = ModelPair(base, compressed)
        found = attribute(pair, subjects(8, seed=seed, control=False))
        order = np.abs(found.gold).mean(axis=0).argsort()[::-1]
        first += found.units[order[0]] == planted.removesuffix(".weight")
    assert first == 20
