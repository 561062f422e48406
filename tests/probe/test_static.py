"""Decode steps of fixed shapes: the same answers, no shape that moves, nothing read back inside a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from anomia.probe import attention, reference, static, tree
from anomia.probe.head import Head
from anomia.probe.static import FEW_LEAVES, SLOTS, StaticSteps, filled_up

from .conftest import CONFIGURATIONS, random_asks, tiny_model
from .test_tree import assert_same, with_ends


@pytest.fixture
def passes(monkeypatch):
    """The number of tokens of each pass of the decoder."""
    found = []
    decode = Head.decode
    monkeypatch.setattr(
        Head,
        "decode",
        lambda self, **inputs: found.append(inputs["input_ids"].shape[1]) or decode(self, **inputs),
    )
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_answers_are_those_of_the_plain_engine(name, models, asks, decoding):
    model = models(name)
    decoding = with_ends(model, asks, decoding)
    expected = list(tree.answer(model, asks, decoding, batch_size=3))
    # Batches of another size each time, so that memory is used again with other rows.
    found = list(tree.answer(model, asks, decoding, batch_size=3, static=True))
    assert len(found) == len(asks)
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(mine, theirs, tolerance=2e-5)
    [plain] = reference.answer(model, asks[-1:], decoding, batch_size=1)
    assert_same(found[-1], plain)


def test_nothing_depends_on_how_items_are_batched(models, decoding):
    many = random_asks(7, seed=5)
    alone = list(tree.answer(models("gemma3"), many, decoding, batch_size=1, static=True))
    for size in (2, 7):
        for mine, theirs in zip(
            tree.answer(models("gemma3"), many, decoding, batch_size=size, static=True), alone, strict=True
        ):
            assert_same(mine, theirs, tolerance=2e-5)


def test_asks_without_reach_and_with_nothing_else_decode_too(models, asks, decoding):
    greedy = [replace(ask, beams={}, samples={}, forced=None) for ask in asks]
    reach = [replace(ask, greedy={}, options={}, targets={}, distribution=None) for ask in asks]
    for some in (greedy, reach):
        for mine, theirs in zip(
            tree.answer(models("qwen3"), some, decoding, batch_size=2, static=True),
            tree.answer(models("qwen3"), some, decoding, batch_size=2),
            strict=True,
        ):
            assert_same(mine, theirs, tolerance=2e-5)


def test_shapes_come_from_a_short_list(models, asks, decoding, passes, monkeypatch):
    shapes = []
    step = StaticSteps._step
    monkeypatch.setattr(
        StaticSteps, "_step", lambda self, head, shape: shapes.append(shape) or step(self, head, shape)
    )
    list(tree.answer(models("llama"), asks, decoding, batch_size=5, static=True))
    assert len(shapes) == decoding.max_new_tokens - 1
    assert passes[-len(shapes) :] == [shape.leaves for shape in shapes]
    assert {shape.leaves for shape in shapes} <= set(FEW_LEAVES)
    assert all(shape.length % SLOTS == 0 for shape in shapes)
    assert len(set(shapes)) < len(shapes) / 2
    assert [filled_up(n) for n in (1, 8, 9, 512, 513, 1024, 1025)] == [8, 8, 16, 512, 1024, 1024, 1536]


class _NothingIsReadBack(TorchDispatchMode):
    """Refuses what makes a program wait for a GPU, and what can't be captured."""

    def __torch_dispatch__(self, function, types, given=(), named=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal.default", "unique", "is_nonzero")
        assert not any(name in str(function) for name in waits), f"{function} waits for its result"
        return function(*given, **(named or {}))


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name != "mixtral"])
def test_no_value_is_read_back_inside_a_step(name, models, asks, decoding, monkeypatch):
    """A mixture of experts sends tokens where its values say, so its steps are not captured."""
    step = StaticSteps._step
    steps = []

    def watched(self, head, shape):
        steps.append(shape)
        with _NothingIsReadBack():
            return step(self, head, shape)

    monkeypatch.setattr(StaticSteps, "_step", watched)
    list(tree.answer(models(name), asks[:2], decoding, batch_size=2, static=True))
    assert steps


def test_a_step_run_twice_is_a_step_run_once(models, asks, decoding, monkeypatch):
    """As it is when it is captured."""
    expected = list(tree.answer(models("llama"), asks, decoding, batch_size=5, static=True))
    step = StaticSteps._step
    monkeypatch.setattr(
        StaticSteps, "_step", lambda self, head, shape: (step(self, head, shape), step(self, head, shape))[1]
    )
    for mine, theirs in zip(
        tree.answer(models("llama"), asks, decoding, batch_size=5, static=True), expected, strict=True
    ):
        assert mine == theirs


def test_a_model_that_can_not_be_captured_says_so_once_and_answers(asks, decoding, monkeypatch, caplog):
    model = tiny_model("llama")
    expected = list(tree.answer(model, asks, decoding, batch_size=2, static=True))
    static.forget_steps(model)
    made = StaticSteps.__init__

    def capturing(self, **given):
        made(self, **given)
        self._captures = True

    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(StaticSteps, "__init__", capturing)
    monkeypatch.setattr(StaticSteps, "_capture", refuse)
    with caplog.at_level("WARNING"):
        found = list(tree.answer(model, asks, decoding, batch_size=2, static=True))
    assert found == expected
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "decode steps of this model can't be captured as CUDA graphs and run one operation at a time"
    ]
    assert "\n" not in caplog.records[0].getMessage()


def test_memory_is_kept_while_it_is_large_enough_and_weights_stay_where_they_are(asks, decoding):
    model = tiny_model("llama")
    given = {"rows": 3, "capacity": 100, "leaves": 20, "device": torch.device("cpu")}
    first = static.steps_for(model, **given)
    assert static.steps_for(model, **{**given, "rows": 2}) is first
    second = static.steps_for(model, **{**given, "rows": 4})
    assert second is not first
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(48, 32))
    assert static.steps_for(model, **given) is not second


def test_broken_items_leave_nothing_behind(decoding):
    model = tiny_model("llama")
    asks = random_asks(2)
    expected = list(tree.answer(model, asks, decoding, batch_size=2, static=True))
    with torch.inference_mode():
        steps = static.steps_for(model, rows=1, capacity=1, leaves=1, device=torch.device("cpu"))
        for keys, values in steps.cache.stored.values():
            keys.fill_(torch.nan)
            values.fill_(torch.nan)
    assert list(tree.answer(model, asks, decoding, batch_size=2, static=True)) == expected


@pytest.mark.parametrize("asked", [1, 5])
def test_the_fused_operation_is_the_same_attention(asked):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, asked, 8), torch.randn(2, 3, 11, 8), torch.randn(2, 3, 11, 8)
    mask = attention.additive(torch.rand(2, asked, 11) < 0.7, torch.float32)
    mask[..., 0] = 0
    plain = attention.masked_attention(query, key, value, mask, scaling=0.3, softcap=None)
    fused = attention.fused_attention(query, key, value, mask, scaling=0.3)
    assert torch.allclose(plain, fused, atol=1e-6)
