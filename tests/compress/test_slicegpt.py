from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.reshape.base import Walk
from anomia.compress.reshape.slicegpt import SLICEGPT, _rotated, find_flow, residual_covariance
from anomia.compress.reshape.subject import Loaded
from anomia.compress.spec import parse_arm
from tests.compress.architectures import kinds, tiny
from tests.compress.conftest import make_test_windows, tiny_model
from tests.compress.reshaped import (
    every_architecture,
    generates_alike,
    in_memory,
    loads_back,
    logits,
    refused,
    with_noise,
)

WINDOWS = make_test_windows([24, 17, 9])
slicegpt = in_memory(SLICEGPT.apply)
PRE_NORM = ["llama", "llama_biases_tied", "qwen2", "qwen3", "mistral", "phi3", "mixtral", "qwen3_moe"]
OTHERS = ["gemma", "gpt_oss", "deepseek_v3", "granite", "smollm3", "qwen3_next", "qwen2_moe"]


def pre_norm(name: str) -> Any:
    return with_noise(tiny(name) if name in OTHERS else tiny_model(name))


@settings(deadline=None, max_examples=6)
@given(st.sampled_from(PRE_NORM), st.integers(0, 1000))
def test_a_rotation_alone_changes_nothing(name: str, seed: int) -> None:
    """With all directions kept, any orthogonal basis gives the dense model's logits."""
    model = pre_norm(name)
    size = model.config.hidden_size
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    decoder = find_blocks(model)
    _, built = _rotated(Loaded(model, decoder), find_flow(model, decoder, WINDOWS), rotation, size, WINDOWS)
    fresh = built.model
    torch.testing.assert_close(
        logits(fresh), logits(model), rtol=1e-3, atol=1e-4 * float(logits(model).abs().max())
    )
    assert not torch.allclose(fresh.get_input_embeddings().weight, model.get_input_embeddings().weight)


def confined(model: Any, width: int) -> Any:
    """The model with hidden states that lie in `width` directions at random angles: all that writes is projected."""
    size = model.config.hidden_size
    generator = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(size, width, generator=generator)).Q
    projection = basis @ basis.T
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                parameter.copy_(parameter @ projection)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.copy_(projection @ parameter)
            elif name.endswith(("experts.down_proj",)):
                transposed = model.model.layers[0].mlp.experts.is_transposed
                parameter.copy_(parameter @ projection if transposed else projection @ parameter)
            elif name.endswith(("o_proj.bias", "down_proj.bias", "down_proj_bias")):
                parameter.copy_(parameter @ projection)
    assert model.config.tie_word_embeddings == tied
    return model


@pytest.mark.parametrize("name", [*PRE_NORM, "gemma", "gpt_oss", "granite", "smollm3"])
def test_directions_that_no_state_has_go_without_a_trace(name: str, tmp_path: Path) -> None:
    """The strongest check: states confined to some directions are found, and the cut model gives the same logits."""
    model = pre_norm(name)
    size = model.config.hidden_size
    model = confined(model, size * 3 // 4)
    expected = logits(model)
    tied = model.config.tie_word_embeddings
    report = slicegpt(model, find_blocks(model), 0.25, WINDOWS)
    assert model.config.hidden_size == size * 3 // 4
    assert report.details["variance_kept"] == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert model.config.tie_word_embeddings is False
    assert any("separately from the embeddings" in note for note in report.notes) == bool(tied)
    generates_alike(loads_back(model, tmp_path))


def test_the_covariance_is_that_of_all_norms_inputs() -> None:
    """Recomputed from whole passes, one window at a time."""
    model = pre_norm("llama")
    rows: list[np.ndarray] = []
    norms = [m for n, m in model.named_modules() if type(m).__name__ == "LlamaRMSNorm"]
    assert len(norms) == 2 * 3 + 1
    handles = [
        n.register_forward_pre_hook(lambda _, args: rows.append(args[0][0].double().numpy())) for n in norms
    ]
    for ids in WINDOWS.token_ids:
        logits(model, torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    states = np.concatenate(rows)
    states /= np.sqrt((states**2).mean(axis=1, keepdims=True))
    decoder = find_blocks(model)
    found = residual_covariance(Loaded(model, decoder), find_flow(model, decoder, WINDOWS), Walk(WINDOWS))
    np.testing.assert_allclose(found.numpy(), states.T @ states, rtol=1e-4, atol=1e-3)


def test_a_size_that_heads_must_divide_is_cut_in_smaller_steps() -> None:
    """Llama's hidden size is a multiple of its heads: with nine, no smaller multiple of 64 is one up to 512."""
    model = tiny_model("llama", hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_dim=4)
    before = model.config.hidden_size
    slicegpt(model, find_blocks(model), 0.2, WINDOWS)
    assert before == 576
    # The largest multiple of 8 and 9 that is at most 464, 80 % rounded up to a multiple of 8.
    assert model.config.hidden_size == 432


def test_a_cut_model_normalizes_by_the_former_size() -> None:
    """The paper's RMSN: the sum of squares of what is left over the number of all dimensions."""
    model = pre_norm("llama")
    slicegpt(model, find_blocks(model), 0.5, WINDOWS)
    states = torch.randn(3, 8)
    expected = states / (states.square().sum(dim=1, keepdim=True) / 16).sqrt()
    torch.testing.assert_close(model.model.norm(states), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_rounds_the_factor_and_makes_up_for_it() -> None:
    model = confined(pre_norm("llama"), 12)
    expected = logits(model)
    model = model.to(torch.bfloat16)
    slicegpt(model, find_blocks(model), 0.25, WINDOWS)
    assert model.dtype == torch.bfloat16
    error = (logits(model).float() - expected).norm() / expected.norm()
    assert error < 0.05


def test_other_norms_are_refused() -> None:
    refused(tiny_model("gemma3"), slicegpt, 0.25, WINDOWS, match="a post-norm")
    refused(tiny_model("olmo2"), slicegpt, 0.25, WINDOWS, match="a post-norm")
    refused(tiny_model("gpt2"), slicegpt, 0.25, WINDOWS, match="is not an RMSNorm")
    refused(with_noise(tiny("cohere")), slicegpt, 0.25, WINDOWS, match="subtracts the mean")
    refused(with_noise(tiny("olmo")), slicegpt, 0.25, WINDOWS, match="is not an RMSNorm")


def test_bad_requests_are_refused() -> None:
    refused(tiny_model("llama"), slicegpt, 0.25, None, match="needs calibration text")
    refused(tiny_model("llama"), slicegpt, 1.0, WINDOWS, match="not a share")
    refused(tiny_model("llama"), slicegpt, 0.01, WINDOWS, match="choose a larger share")
    model = tiny_model("llama")
    windows = make_test_windows([60])
    late = next(token for token in windows.token_ids[0][48:] if token not in windows.token_ids[0][:48])
    with torch.no_grad():
        model.model.embed_tokens.weight[late] = torch.inf
    refused(model, slicegpt, 0.25, windows, match="NaN or infinite")


def test_an_untied_head_that_is_larger_than_what_went_is_told() -> None:
    model = with_noise(tiny_model("llama_biases_tied", vocab_size=4096))
    report = slicegpt(model, find_blocks(model), 0.25, WINDOWS)
    assert report.bytes_after > report.bytes_before
    assert any("not smaller" in note for note in report.notes)


def test_as_a_step_of_an_arm() -> None:
    model = tiny_model("llama")
    (step,) = parse_arm("slicegpt:0.5").steps
    report = compress(model, step, WINDOWS)
    assert report.reshaped is not None
    assert report.reshaped["removed"] == ("8 of 16 dimensions of the hidden states",)
    assert any("one rotation for the whole model" in warning for warning in report.warnings)
    generates_alike(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_every_architecture_loads_back_or_says_why_not(kind: str, tmp_path: Path) -> None:
    every_architecture(kind, slicegpt, 0.25, folder=tmp_path)
