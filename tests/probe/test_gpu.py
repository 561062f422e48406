"""The tree on CUDA: the answers of `model.generate` and of full passes, by steps that are captured."""

from __future__ import annotations

import gc

import pytest
import torch

from anomia.probe import generate, reference, sampling, static, tree
from anomia.probe.select import supports_tree

from .conftest import CONFIGURATIONS, random_asks, tiny_model
from .test_tree import assert_same, with_ends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture
def on_gpu():
    yield lambda name: tiny_model(name).cuda()
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_answers_are_those_of_generate_and_of_full_passes(name, on_gpu, asks, decoding):
    model = on_gpu(name)
    decoding = with_ends(model, asks, decoding)
    expected = list(reference.answer(model, asks, decoding, batch_size=1))
    for mine, theirs in zip(tree.answer(model, asks, decoding, batch_size=3), expected, strict=True):
        assert_same(mine, theirs)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2"])
def test_steps_are_captured_and_give_what_plain_steps_give(name, on_gpu, decoding, caplog):
    model, many = on_gpu(name), random_asks(9, seed=4)
    with caplog.at_level("WARNING", logger="anomia"):
        captured = [list(tree.answer(model, many, decoding, batch_size=4)) for _ in range(2)]
    assert not [record for record in caplog.records if record.name.startswith("anomia")]
    assert static._kept[model].steps._graphs
    plain = list(tree.answer(model, many, decoding, batch_size=4, static=False))
    for replies in captured:
        for mine, theirs in zip(replies, plain, strict=True):
            assert_same(mine, theirs)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_trial_at_load_accepts(name, on_gpu):
    assert supports_tree(on_gpu(name)).ok


def test_a_step_waits_for_the_gpu_once(on_gpu, asks, decoding, monkeypatch):
    """PyTorch refuses every hidden wait; only the transfer that is meant to wait is let through, and counted."""
    model = on_gpu("llama")
    list(tree.answer(model, asks, decoding, batch_size=5))
    waits = []
    to_host, grow = generate.to_host, tree.grow

    def meant(*tensors):
        waits.append(len(tensors))
        torch.cuda.set_sync_debug_mode("default")
        found = to_host(*tensors)
        torch.cuda.set_sync_debug_mode("error")
        return found

    def watched(*given, **named):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return grow(*given, **named)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(generate, "to_host", meant)
    monkeypatch.setattr(sampling, "to_host", meant)
    monkeypatch.setattr(tree, "grow", watched)
    list(tree.answer(model, asks, decoding, batch_size=5))
    # A few draws miss the nucleus in all attempts that are made at once.
    assert decoding.max_new_tokens <= len(waits) <= decoding.max_new_tokens + 5
