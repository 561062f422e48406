"""The self-test: it accepts what a tree fits and refuses, in words, what it doesn't."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from anomia.errors import ModelError
from anomia.probe import attention, reference, select, selftest, tree

from .conftest import CONFIGURATIONS, SMALL


def made(config, dtype=torch.float32):
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_tested_architecture_takes_the_tree(name, models):
    assert select.choose_engine(models(name)) == select.ChosenEngine("tree", "", tree.answer)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt2"])
def test_half_precision_passes_too(name):
    assert select.supports_tree(made(CONFIGURATIONS[name](), torch.bfloat16)) == (True, "", None)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.BloomConfig(vocab_size=83, hidden_size=32, n_layer=2, n_head=4), "ALiBi"),
        (transformers.MambaConfig(vocab_size=83, hidden_size=32, num_hidden_layers=2), "recurrent"),
        (transformers.MptConfig(vocab_size=83, d_model=32, n_layers=2, n_heads=4), "ALiBi"),
    ],
    ids=["bloom", "mamba", "mpt"],
)
def test_other_architectures_take_the_reference_engine_and_say_why(config, words):
    model = made(config)
    chosen = select.choose_engine(model)
    assert chosen.name == "reference"
    assert chosen.answer is reference.answer
    assert words in chosen.reason
    with pytest.raises(ModelError, match="--engine reference"):
        select.choose_engine(model, "tree")


def test_opt_whose_head_calls_an_inner_decoder_takes_the_tree():
    config = transformers.OPTConfig(
        vocab_size=83, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=32,
    )  # fmt: skip
    assert select.choose_engine(made(config)).name == "tree"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["leak", "blind", "one far token"])
def test_a_wrong_mask_is_noticed(fault, dtype, monkeypatch):
    model = made(CONFIGURATIONS["llama"](), dtype)

    def wrong(seen, dtype):
        if fault == "one far token":
            seen = seen.clone()
            seen[..., 2] = False
        else:
            seen = torch.ones_like(seen) if fault == "leak" else seen & (torch.rand(seen.shape) < 0.5)
        return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)

    monkeypatch.setattr(attention, "additive", wrong)
    support = select.supports_tree(model)
    assert not support.ok
    assert "standard deviations" in support.reason


def test_rounding_in_half_precision_is_no_fault(monkeypatch):
    """On some processors it is larger than a fault; a float32 likeness of the model tells them apart."""
    monkeypatch.setattr(selftest, "HALF_TOLERANCE", 0.0)
    monkeypatch.setattr(selftest, "PADDINGS", (0,))
    model = made(CONFIGURATIONS["gemma3"](), torch.bfloat16)
    assert select.supports_tree(model).ok
    monkeypatch.setattr(selftest, "shallow_twin", lambda model: None)
    assert "standard deviations" in select.supports_tree(model).reason


def test_a_window_that_never_reaches_attention_is_noticed(models):
    model = models("llama")
    model.config.sliding_window = 8
    try:
        assert "windows" in select.supports_tree(model).reason
    finally:
        del model.config.sliding_window


def test_long_items_of_a_model_with_switching_rotary_scales_take_the_reference_engine(
    asks, decoding, monkeypatch
):
    scaling = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
    }
    config = transformers.Phi3Config(**SMALL, rope_parameters=scaling, original_max_position_embeddings=64)
    model = made(config)
    chosen = select.choose_engine(model)
    assert chosen.name == "tree"
    assert "64 tokens" in chosen.reason
    few = replace(decoding, max_new_tokens=3, sample_seeds=())
    short = replace(asks[0], greedy={"open": (1, 5, 7)})
    long = replace(asks[0], greedy={"open": (5,) * 62})
    short = replace(short, options={}, targets={}, distribution=None, beams={}, samples={}, forced=None)
    taken = []
    for name, module in (("tree", tree), ("reference", reference)):
        monkeypatch.setattr(
            module,
            "answer",
            lambda model, asks, decoding, *, name=name, **_: (taken.append(name) or a for a in asks),
        )
    assert list(chosen.answer(model, [short, long, short], few, batch_size=2)) == [short, long, short]
    assert taken == ["tree", "reference", "tree"]


def test_a_model_in_training_mode_is_refused(models):
    model = models("gpt2").train()
    try:
        assert "training" in select.supports_tree(model).reason
    finally:
        model.eval()


def test_the_model_gets_its_own_attention_back(models):
    model = models("gemma2")
    before = model.config._attn_implementation
    select.supports_tree(model)
    assert model.config._attn_implementation == before
