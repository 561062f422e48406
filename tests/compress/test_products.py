"""Products with watched matrices, however they are written, and the walk that is tried before it is trusted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.calibration import make_batches
from anomia.compress.matrices import all_matrices
from anomia.compress.products import Watched, WeightProducts
from anomia.compress.size import tensor_bytes
from anomia.compress.spec import parse_arm
from anomia.compress.walk import calibrating, try_walk, try_walk_small
from anomia.errors import CompressionError

from .architectures import tiny
from .conftest import make_test_windows, tiny_model

WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "linear": lambda x, w: F.linear(x, w),
    "matmul": lambda x, w: x @ w.T,
    "from the left": lambda x, w: w @ x.mT,
    "einsum": lambda x, w: torch.einsum("bti,oi->bto", x, w),
    "spread over the batch": lambda x, w: torch.bmm(x, w.T[None].expand(len(x), -1, -1).contiguous()),
    "half of its rows": lambda x, w: (F.linear(x, w[: len(w) // 2]), F.linear(x, w[len(w) // 2 :])),
    "cast": lambda x, w: F.linear(x.double(), w.double()),
    "with a bias": lambda x, w: F.linear(x, w, torch.ones(len(w))),
}


@pytest.mark.parametrize("way", list(WAYS))
@given(batch=st.integers(1, 3), tokens=st.integers(1, 5), rows=st.integers(2, 6), columns=st.integers(2, 6))
def test_every_way_to_multiply_shows_the_input(
    way: str, batch: int, tokens: int, rows: int, columns: int
) -> None:
    x, weight = torch.randn(batch, tokens, columns), torch.randn(rows, columns)
    seen: list[torch.Tensor] = []
    with (
        torch.no_grad(),
        WeightProducts([Watched("w", weight)], lambda name, inputs, source: seen.append(inputs)),
    ):
        WAYS[way](x, weight)
    assert seen
    for inputs in seen:
        torch.testing.assert_close(inputs.reshape(batch, tokens, columns).float(), x)


def test_a_product_with_the_other_side_is_none() -> None:
    weight, seen = torch.randn(4, 4), []
    products = WeightProducts([Watched("w", weight)], lambda *found: seen.append(found))
    with torch.no_grad(), products:
        torch.randn(3, 4) @ weight
    assert not seen
    assert products.unread == {"w"}


def test_experts_that_get_zeros_get_nothing() -> None:
    """Llama 4 sends every token to every expert and silences those that aren't chosen."""
    weights, x = torch.randn(3, 4, 5), torch.randn(3, 6, 4)
    x[0, 2:] = 0
    x[1] = 0
    seen: dict[str, torch.Tensor] = {}
    watched = [Watched(str(n), part.T) for n, part in enumerate(weights)]
    with torch.no_grad(), WeightProducts(watched, lambda name, inputs, source: seen.update({name: inputs})):
        torch.bmm(x, weights)
    assert {name: len(inputs) for name, inputs in seen.items()} == {"0": 2, "2": 6}


def test_a_state_that_a_block_leaves_for_another_is_noticed() -> None:
    """Run alone, a text finds its own state; run between others, it finds theirs."""
    model = tiny_model("llama")
    first, last = model.model.layers[0], model.model.layers[2]
    left: list[torch.Tensor] = []
    first.register_forward_hook(lambda _, __, out: left.__setitem__(slice(None), [out]))
    inner = type(last).forward
    last.__class__ = type(
        "Reading",
        (type(last),),
        {"forward": lambda self, hidden, *a, **k: inner(self, hidden + left[0], *a, **k)},
    )
    decoder = find_blocks(model)
    assert (
        "depend on more than their inputs"
        in try_walk(model, decoder, make_batches(make_test_windows([24]))[0]).fault
    )


@pytest.mark.parametrize(
    ("kind", "padded", "fault"),
    [
        ("llama", True, ""), ("doge", False, ""), ("cpmant", False, ""), ("mamba", True, ""),
        ("hrm_text", True, "more than once"), ("zaya", True, "hand each other"), ("zamba", True, "share matrices"),
    ],
)  # fmt: skip
def test_what_the_walk_finds_without_weights(kind: str, padded: bool, fault: str) -> None:
    model = tiny(kind)
    found, note = try_walk_small(find_blocks(model), model.config)
    assert not note
    assert (found.padded, fault in found.fault, bool(found.fault)) == (padded, True, bool(fault))


@pytest.mark.parametrize("arm", ["wanda:0.5", "wanda:0.5,allocation=owl"])
def test_what_no_text_reaches_is_skipped(arm: str) -> None:
    """Blocks that look at pictures are pruned by magnitude, and the states pass them by."""
    report = compress(tiny("mllama"), parse_arm(arm).steps[0], make_test_windows([20, 11]))
    cross = [matrix for matrix in report.matrices if "cross_attn" in matrix.name]
    assert cross
    assert all("no calibration token" in matrix.note for matrix in cross)


def test_shared_matrices_are_compressed_once() -> None:
    model = tiny("zamba")
    decoder = find_blocks(model)
    names = [
        m.weight.data_ptr() for i, b in enumerate(decoder.modules) for m in all_matrices(b, decoder.path(i))
    ]
    assert len(names) == len(set(names))


def test_settings_come_back_after_a_refusal() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    model.model.layers[1].train()
    during: list[str] = []

    def refused() -> None:
        with calibrating(model):
            during.append(model.config._attn_implementation)
            raise CompressionError("refused")

    with pytest.raises(CompressionError):
        refused()
    assert during != ["sdpa"]
    assert model.config._attn_implementation == "sdpa"
    assert next(part for part, module in model.named_modules() if module.training) == "model.layers.1"
    assert not model.training


def test_packed_tensors_count_as_what_they_hold() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False), torch.nn.Linear(64, 32, bias=False))
    dense = tensor_bytes(model)
    packed = copy.deepcopy(model)
    quantization.quantize_(packed, quantization.Int8WeightOnlyConfig())
    assert dense == 2 * 64 * 32 * 4
    assert 2 * 64 * 32 <= tensor_bytes(packed) <= 2 * (64 * 32 + 32 * 8)
