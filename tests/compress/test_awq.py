from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anomia.compress.blocks import find_blocks
from anomia.compress.calls import Call, run_block
from anomia.compress.methods import scales as folding
from anomia.compress.methods.awq import NO_PRODUCER, NOT_ALONE, Inputs, quantize_block, search_scales
from anomia.compress.methods.grid import Grid, round_to_nearest
from anomia.compress.methods.scales import Folding, Producer, divide, find_producers, realize, unchanged
from anomia.compress.statistics import StatisticNeeds, observe
from anomia.compress.walk import MemoryStates, calibrating, enter, make_model_batches

from .conftest import FAMILIES, make_test_windows, tiny_model
from .test_gptq import random_weight
from .test_sparsegpt import correlated_inputs

NEEDS = StatisticNeeds(hessian=True, sums=True)
PLAIN_HEADS = {"num_key_value_heads": 4}
NORM, OWN, NONE = "norm", "matrix", "none"
# Where the scales of attention's inputs, its output projection, the first and the last matrices of the MLP go.
EXPECTED: dict[str, tuple[str, str, str, str]] = {
    "llama": (NORM, OWN, NORM, OWN),
    "llama_biases_tied": (NORM, OWN, NORM, OWN),
    "qwen2": (NORM, OWN, NORM, OWN),
    "qwen3": (NORM, OWN, NORM, OWN),
    "mistral": (NORM, OWN, NORM, OWN),
    "phi3": (NORM, OWN, NORM, OWN),
    "gemma2": (NORM, OWN, NORM, OWN),
    "gemma3": (NORM, OWN, NORM, OWN),
    # Its norms come after the matrices: what enters them is the residual stream.
    "olmo2": (NONE, OWN, NONE, OWN),
    # Heads lie interleaved in its fused matrix; nothing linear comes before the last matrix of the MLP.
    "gpt_neox": (NORM, NONE, NORM, NONE),
    "gpt2": (NORM, OWN, NORM, NONE),
}


def random_norms(model: nn.Module, *, around: float) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data = around + 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def tiny(family: str, dtype: torch.dtype = torch.float32) -> Any:
    heads = {} if family in ("gpt2", "gpt_neox") else PLAIN_HEADS
    around = 0.0 if family.startswith("gemma") else 1.0
    return random_norms(tiny_model(family, **heads), around=around).to(dtype)


def watched(model: Any, index: int = 1) -> tuple[nn.Module, list[Inputs], torch.Tensor, Call]:
    """A block, what its matrices read, and a batch that enters it."""
    decoder = find_blocks(model)
    batches = make_model_batches(decoder, make_test_windows([40] * 6), NEEDS)
    states = MemoryStates()
    with torch.no_grad(), calibrating(model):
        calls = enter(model, decoder, batches, states.keep)
        groups = observe(decoder.modules[index], batches, states.read, calls[index], NEEDS, where="b")
    inputs = []
    for group in groups:
        found = group.statistic
        inputs.append(
            Inputs(
                tuple(matrix.name for matrix in group.matrices),
                tuple(matrix.weight for matrix in group.matrices),
                None if found is None else found.hessian,
                None if found is None or found.sum_abs is None else found.sum_abs / found.tokens,
                alone=not any(matrix.name.endswith("]") for matrix in group.matrices),
            )
        )
    return decoder.modules[index], inputs, states.read(0), calls[index][0]


def foldings(inputs: list[Inputs]) -> dict[str, Folding]:
    return {i.names[0]: Folding(i.names, i.weights[0].shape[1]) for i in inputs if i.alone}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_produces_an_input_is_found_by_looking(family: str) -> None:
    block, inputs, hidden, call = watched(tiny(family))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    found = find_producers(block, foldings(inputs), hidden, call)
    kinds = [NONE if i.names[0] not in found else OWN if found[i.names[0]].linear else NORM for i in inputs]
    assert tuple(kinds) == EXPECTED[family]
    offsets = {producer.offset for producer in found.values() if not producer.linear}
    assert offsets <= {1.0 if family.startswith("gemma") else 0.0}
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    if family == "phi3":
        # The values and `up` are the last rows of their fused matrices.
        assert {p.first for p in found.values() if p.linear} == {2 * 32, 24}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_with_folded_scales_computes_what_it_did(family: str, dtype: torch.dtype) -> None:
    block, inputs, hidden, call = watched(tiny(family, dtype))
    with torch.no_grad():
        dense = run_block(block, hidden, call)
        done = quantize_block(block, inputs, Grid(8, 8, symmetric=False, dtype=dtype), hidden, call)
        for group in inputs:
            for name, weight in zip(group.names, group.weights, strict=True):
                weight.copy_(done[name].quantized.values())
        lost = (run_block(block, hidden, call) - dense).float().norm() / (dense.float()).norm()
    # Eight bits lose next to nothing; a scale that is folded wrongly would be seen.
    assert lost < (0.01 if dtype is torch.float32 else 0.03)
    scaled = [i for i in inputs if done[i.names[0]].scales is not None]
    assert len(scaled) == sum(kind != NONE for kind in EXPECTED[family])
    assert any(not torch.equal(s, torch.ones_like(s)) for i in scaled for s in [done[i.names[0]].scales])


def test_grouped_heads_and_experts_are_rounded_without_scales_and_say_so() -> None:
    block, inputs, hidden, call = watched(random_norms(tiny_model("llama"), around=1.0))
    done = quantize_block(block, inputs, Grid(4, 8), hidden, call)
    assert done["self_attn.o_proj"].note == NO_PRODUCER
    assert done["self_attn.q_proj"].note == done["mlp.down_proj"].note == ""
    block, inputs, hidden, call = watched(random_norms(tiny_model("mixtral"), around=1.0))
    norm = block.get_parameter("post_attention_layernorm.weight").clone()
    done = quantize_block(block, inputs, Grid(4, 8), hidden, call)
    assert done["mlp.experts.down_proj[0]"].note == NOT_ALONE
    assert done["self_attn.q_proj"].note == ""
    # The router reads what the experts read.
    assert torch.equal(block.get_parameter("post_attention_layernorm.weight"), norm)


def test_a_norm_that_something_else_reads_takes_no_scales() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(16)
            self.first = nn.Linear(16, 16)
            self.last = nn.Linear(16, 16)
            self.gate = nn.Parameter(torch.randn(16))

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            normed = self.norm(hidden)
            return hidden + self.last(self.first(normed)) * torch.sigmoid(normed @ self.gate)[..., None]

    torch.manual_seed(0)
    block, hidden = Gated(), torch.randn(2, 5, 16)
    groups = {"first": Folding(("first",), 16), "last": Folding(("last",), 16)}
    found = find_producers(block, groups, hidden, Call((), {}))
    assert found == {"last": Producer("first", 0, 0.0, linear=True)}


def test_a_wrong_fold_is_noticed() -> None:
    block, inputs, hidden, call = watched(tiny("gemma3"))
    scales = torch.linspace(0.5, 2, 16)

    def same(offset: float, scales: torch.Tensor, states: torch.Tensor) -> bool:
        producer = Producer("input_layernorm", 0, offset, linear=False)

        def change(copied: nn.Module) -> None:
            for name in inputs[0].names:
                folding.weight_of(copied, name).mul_(scales)
            divide(copied, producer, scales)

        return unchanged(block, change, [producer], states, call)

    assert inputs[0].names[0] == "self_attn.q_proj"
    assert same(1.0, scales, hidden)
    assert not same(0.0, scales, hidden)
    # On top of a residual stream as large as those of real models, of which the block changes next to nothing.
    large = hidden.clone()
    large[..., 0] += 1e5
    assert same(1.0, scales, large)
    assert not same(0.0, scales, large)


@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    offset=st.sampled_from([0.0, 1.0]),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_scales_are_those_that_the_stored_norm_makes(
    dtype: torch.dtype, offset: float, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    norm = nn.LayerNorm(32, bias=False)
    norm.weight.data = (size * torch.randn(32, generator=generator)).to(dtype)
    norm.weight.data[0] = -offset
    block = nn.ModuleDict({"norm": norm})
    dense = norm.weight.data.float() + offset
    wanted = torch.empty(32).uniform_(0.1, 10, generator=generator)
    producer = Producer("norm", 0, offset, linear=False)
    scales = realize(block, producer, wanted)
    assert (scales > 0).all()
    assert scales[0] == 1
    divide(block, producer, scales)
    after = norm.weight.data.float() + offset
    torch.testing.assert_close(after * scales, dense, rtol=1e-5, atol=1e-6)


def test_the_loss_is_that_of_the_outputs() -> None:
    inputs = correlated_inputs(64) * torch.logspace(-1, 1, 64)
    weights, grid = [random_weight(8, 64), random_weight(12, 64, 5)], Grid(3, 16, symmetric=False)
    search = search_scales(weights, inputs.T @ inputs, inputs.abs().mean(0), grid)

    def lost(scales: torch.Tensor) -> float:
        rounded = [round_to_nearest(w * scales, grid).values() / scales for w in weights]
        return sum(
            float(((r - w).double() @ inputs.double().T).pow(2).sum())
            for r, w in zip(rounded, weights, strict=True)
        )

    assert search.loss == pytest.approx(lost(search.scales), rel=1e-3)
    assert search.unscaled == pytest.approx(lost(torch.ones(64)), rel=1e-3)
    assert search.loss < search.unscaled


def autoawq_scales(weight: torch.Tensor, inputs: torch.Tensor, grid: Grid, powers: list[float]) -> Any:
    """`_search_best_scale` of AutoAWQ with `duo_scaling`, for one matrix that is its own module."""
    group = grid.width(weight.shape[1])
    grouped = weight.view(-1, group)
    w_mean = (grouped.abs() / (grouped.abs().amax(dim=1, keepdim=True) + 1e-6)).view(weight.shape).mean(0)
    x_mean = inputs.abs().mean(0)
    best: tuple[float, Any] = (float("inf"), None)
    for power in powers:
        scales = (x_mean.pow(power) / (w_mean.pow(1 - power) + 1e-4)).clamp(min=1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        scaled = (weight * scales).view(-1, group)
        high, low = scaled.amax(dim=1, keepdim=True), scaled.amin(dim=1, keepdim=True)
        step = (high - low).clamp(min=1e-5) / grid.levels
        zero = (-torch.round(low / step)).clamp_(0, grid.levels)
        rounded = (torch.clamp(torch.round(scaled / step) + zero, 0, grid.levels) - zero) * step
        loss = float(((rounded.view(weight.shape) / scales - weight) @ inputs.T).pow(2).mean())
        if loss < best[0]:
            best = (loss, scales)
    return best[1]


@pytest.mark.parametrize("bits", [3, 4])
def test_scales_are_those_of_autoawq_for_a_matrix_of_its_own(bits: int) -> None:
    inputs = correlated_inputs(64) * torch.logspace(-1, 1, 64)
    weight, grid = random_weight(32, 64), Grid(bits, 16, symmetric=False)
    search = search_scales([weight], inputs.T @ inputs, inputs.abs().mean(0), grid)
    expected = autoawq_scales(weight, inputs, grid, [step / 18 for step in range(19)])
    torch.testing.assert_close(search.scales, expected, rtol=1e-4, atol=1e-5)


def test_strong_inputs_get_large_scales_and_dead_ones_none() -> None:
    inputs = torch.randn(500, 32, generator=torch.Generator().manual_seed(1))
    inputs[:, 5] *= 100
    inputs[:, [3, 9]] = 0
    search = search_scales(
        [random_weight(16, 32)], inputs.T @ inputs, inputs.abs().mean(0), Grid(3, 16, symmetric=False)
    )
    assert int(search.scales.argmax()) == 5
    assert search.scales[3] == search.scales[9] == 1
    assert search.loss < search.unscaled / 4


def test_inputs_that_never_came_leave_the_weights_as_they_are_rounded() -> None:
    search = search_scales([random_weight(4, 16)], torch.zeros(16, 16), torch.zeros(16), Grid(4, 16))
    assert torch.equal(search.scales, torch.ones(16))
