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
from anomia.compress.reshape.width import FLAP, choose_heads
from anomia.compress.spec import parse_arm
from tests.compress.architectures import kinds, tiny
from tests.compress.conftest import FAMILIES, make_test_windows, tiny_model
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
flap = in_memory(FLAP.apply)


def inputs_of(model: Any, name: str, windows: Any) -> list[np.ndarray]:
    """What enters a layer of every block, [T, in] float64 each: whole passes, one window at a time."""
    layers = [module for path, module in model.named_modules() if path.endswith(name)]
    seen: list[list[np.ndarray]] = [[] for _ in layers]
    handles = [
        layer.register_forward_pre_hook(lambda _, args, mine=mine: mine.append(args[0][0].double().numpy()))
        for layer, mine in zip(layers, seen, strict=True)
    ]
    for ids in windows.token_ids:
        logits(model, torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return [np.concatenate(mine) for mine in seen]


def scores_of(model: Any, name: str, windows: Any) -> list[np.ndarray]:
    """Variance of each input times the squared norm of its weights."""
    weights = [m.weight.detach().double().numpy() for path, m in model.named_modules() if path.endswith(name)]
    inputs = inputs_of(model, name, windows)
    return [x.var(axis=0, ddof=1) * (w**2).sum(axis=0) for x, w in zip(inputs, weights, strict=True)]


def lowest(scores: np.ndarray, count: int) -> list[int]:
    return sorted(np.argsort(scores, kind="stable")[:count].tolist())


def test_heads_and_channels_are_those_of_a_recomputation_from_whole_passes(tmp_path: Path) -> None:
    """What goes is set to zero in the dense model by hand, what it gave on average is added: the same logits."""
    model = with_noise(tiny_model("llama_biases_tied", num_key_value_heads=4))
    inputs = {name: inputs_of(model, name, WINDOWS) for name in ("o_proj", "down_proj")}
    scores = {name: scores_of(model, name, WINDOWS) for name in inputs}
    dense = with_noise(tiny_model("llama_biases_tied", num_key_value_heads=4))
    report = flap(model, find_blocks(model), 0.5, WINDOWS)
    assert (report.after["num_attention_heads"], report.after["num_key_value_heads"]) == (2, 2)
    inner = report.after["intermediate_size"]
    assert inner == 12
    with torch.no_grad():
        for index, block in enumerate(dense.model.layers):
            by_head = (scores["o_proj"][index].reshape(4, -1) ** 2).sum(axis=1)
            heads = lowest(by_head, 2)
            gone = {
                "o_proj": [head * 8 + i for head in heads for i in range(8)],
                "down_proj": lowest(scores["down_proj"][index], 24 - inner),
            }
            assert report.details["kept_heads"][index] == [head for head in range(4) if head not in heads]
            for name, layer in (("o_proj", block.self_attn.o_proj), ("down_proj", block.mlp.down_proj)):
                mean = torch.tensor(inputs[name][index].mean(axis=0)).float()
                layer.bias += layer.weight[:, gone[name]] @ mean[gone[name]]
                layer.weight[:, gone[name]] = 0
    torch.testing.assert_close(logits(model), logits(dense), rtol=1e-4, atol=1e-4)
    loads_back(model, tmp_path)


@pytest.mark.parametrize(("family", "flag"), [("llama", "mlp_bias"), ("gpt2", None)])
def test_the_mean_output_of_the_first_block_stays(family: str, flag: str | None) -> None:
    """The law of the compensation: over the calibration tokens, what a layer gives on average doesn't change."""
    model = with_noise(tiny_model(family))

    def mean_output() -> torch.Tensor:
        block = find_blocks(model).modules[0]
        found: list[torch.Tensor] = []
        handle = block.mlp.register_forward_hook(lambda _, __, out: found.append(out[0]))
        for ids in WINDOWS.token_ids:
            logits(model, torch.tensor([ids]))
        handle.remove()
        return torch.cat(found).mean(dim=0)

    expected = mean_output()
    report = flap(model, find_blocks(model), 0.2, WINDOWS)
    assert not any("attention heads in" in line for line in report.removed)
    assert flag is None or report.after[flag] is True
    torch.testing.assert_close(mean_output(), expected, rtol=1e-4, atol=1e-4)


def test_a_channel_that_never_changes_goes_without_a_trace() -> None:
    model = with_noise(tiny_model("llama", mlp_bias=True))
    with torch.no_grad():
        for block in model.model.layers:
            for name in ("gate_proj", "up_proj"):
                getattr(block.mlp, name).weight[5:9] = 0
                getattr(block.mlp, name).bias[5:9] = 1.5
    expected = logits(model)
    # Four channels of 24, of three matrices of 16 inputs or outputs, in a block of 16 · (32 + 32 + 16 + 16 + 72) weights.
    report = flap(model, find_blocks(model), 4 * 3 / (32 + 32 + 16 + 16 + 72) + 0.001, WINDOWS)
    assert report.after["intermediate_size"] == 20
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda groups: st.tuples(
            st.just(groups),
            st.integers(1, 4),
            st.integers(1, groups),
            st.booleans(),
            st.randoms(use_true_random=False),
        )
    )
)
def test_groups_stay_whole_or_lose_alike(case: tuple[int, int, int, bool, Any]) -> None:
    groups, each, kept, whole, random = case
    score = torch.tensor([random.random() for _ in range(groups * each * 2)])
    if whole or kept == groups:
        heads, left = choose_heads(score, (groups * each, groups), (kept * each, kept))
        assert heads == [g * each + i for g in left for i in range(each)]
        assert len(left) == kept
    else:
        inside = max(1, each - 1)
        heads, left = choose_heads(score, (groups * each, groups), (groups * inside, groups))
        assert left == list(range(groups))
        assert [sum(h // each == g for h in heads) for g in range(groups)] == [inside] * groups
    assert heads == sorted(set(heads))
    by_head = score.reshape(groups * each, 2).square().sum(dim=1)
    assert whole or kept == groups or by_head[heads].sum() >= by_head.sum() * len(heads) / len(by_head) - 1e-5


@pytest.mark.parametrize(
    ("heads", "groups", "share", "left"), [(8, 2, 0.25, (6, 2)), (8, 4, 0.25, (6, 3)), (4, 1, 0.5, (2, 1))]
)
def test_grouped_queries_keep_a_valid_configuration(
    heads: int, groups: int, share: float, left: tuple[int, int], tmp_path: Path
) -> None:
    model = with_noise(
        tiny_model("qwen3", hidden_size=24, num_attention_heads=heads, num_key_value_heads=groups)
    )
    report = flap(model, find_blocks(model), share, WINDOWS)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == left
    assert model.config.head_dim == 8
    assert report.notes == ("no bias compensation for feed-forward: Qwen3ForCausalLM has no bias there",)
    generates_alike(loads_back(model, tmp_path))


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("share", [0.2, 0.4])
def test_every_family_loads_back(family: str, share: float, tmp_path: Path) -> None:
    model = with_noise(tiny_model(family))
    report = flap(model, find_blocks(model), share, WINDOWS)
    matrices = sum(p.numel() for n, p in find_blocks(model).modules[0].named_parameters() if p.dim() == 2)
    dense = with_noise(tiny_model(family))
    before = sum(p.numel() for n, p in find_blocks(dense).modules[0].named_parameters() if p.dim() == 2)
    # One channel of rounding.
    assert matrices / before == pytest.approx(1 - share, abs=0.04)
    assert report.removed
    generates_alike(loads_back(model, tmp_path))


@pytest.mark.parametrize(("family", "groups"), [("phi3", 2), ("phi3", 4), ("qwen2", 1), ("gemma3", 1)])
def test_heads_of_fused_and_shared_projections_go(family: str, groups: int, tmp_path: Path) -> None:
    model = with_noise(tiny_model(family, num_key_value_heads=groups))
    report = flap(model, find_blocks(model), 0.5, WINDOWS)
    assert report.after["num_attention_heads"] == 2
    assert report.after["num_key_value_heads"] == max(1, groups // 2)
    generates_alike(loads_back(model, tmp_path))


def test_what_cannot_be_said_is_a_note_or_refused() -> None:
    model = tiny_model("qwen2")
    notes = flap(model, find_blocks(model), 0.5, WINDOWS).notes
    assert notes == (
        "no bias compensation for attention: Qwen2ForCausalLM has no bias there",
        "no bias compensation for feed-forward: Qwen2ForCausalLM has no bias there",
    )
    model = tiny_model("gpt2")
    assert "attention heads stay" in flap(model, find_blocks(model), 0.3, WINDOWS).notes[0]
    # Its queries are normalized over all heads together.
    model = tiny_model("olmo2", num_key_value_heads=4)
    assert any(
        "q_norm.weight normalizes over all" in note
        for note in flap(model, find_blocks(model), 0.25, WINDOWS).notes
    )
    refused(tiny_model("mixtral"), flap, 0.5, WINDOWS, match="use dropexperts")
    # Its channels pass a norm over all of them.
    refused(tiny("bitnet"), flap, 0.25, WINDOWS, match="normalizes over all of them")
    # Its channels are compared with the mean of all of them.
    refused(
        with_noise(tiny("gemma3n_text")),
        flap,
        0.5,
        make_test_windows([24] * 2),
        match="doesn't compute the same",
    )


def test_bad_requests_are_refused() -> None:
    refused(tiny_model("llama"), flap, 0.5, None, match="needs calibration text")
    refused(tiny_model("llama"), flap, 1.5, WINDOWS, match="not a share")
    refused(tiny_model("llama"), flap, 0.97, WINDOWS, match="no feed-forward channel")
    refused(tiny_model("llama"), flap, 0.001, WINDOWS, match="Nothing was changed")
    model = tiny_model("llama")
    windows = make_test_windows([60])
    late = next(token for token in windows.token_ids[0][48:] if token not in windows.token_ids[0][:48])
    with torch.no_grad():
        model.model.embed_tokens.weight[late] = torch.inf
    refused(model, flap, 0.5, windows, match="NaN or infinite")


def test_as_a_step_of_an_arm() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    (step,) = parse_arm("flap:0.5").steps
    report = compress(model, step, WINDOWS)
    assert report.reshaped is not None
    assert report.reshaped["after"]["num_attention_heads"] == 2
    assert report.size_bytes == sum(p.nbytes for p in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert torch.isfinite(logits(model)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds())
def test_every_architecture_loads_back_or_says_why_not(kind: str, tmp_path: Path) -> None:
    every_architecture(kind, flap, 0.5, folder=tmp_path)


def test_what_a_configuration_refuses_is_said_in_words() -> None:
    model = tiny_model("llama", num_key_value_heads=4, head_dim=None)
    note = flap(model, find_blocks(model), 0.3, WINDOWS).notes[0]
    assert note.startswith(
        "attention heads stay, the configuration can't hold fewer of the same size: its configuration"
    )
    assert "The hidden size (16) is not a multiple of the number of attention heads (3)" in note
    assert "Error" not in note
    assert "validat" not in note.lower()
