from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.report import summary
from anomia.compress.reshape.base import Walk
from anomia.compress.reshape.experts import (
    DROP_EXPERTS,
    MERGE_EXPERTS,
    cluster,
    keep_highest,
)
from anomia.compress.reshape.mixtures import find_mixtures
from anomia.compress.reshape.subject import Loaded
from anomia.compress.reshape.usage import measure_usage
from anomia.compress.spec import parse_arm
from tests.compress.architectures import kinds, tiny
from tests.compress.conftest import SMALL, make_test_windows, tiny_model
from tests.compress.reshaped import (
    every_architecture,
    generates_alike,
    in_memory,
    loads_back,
    logits,
    refused,
    with_noise,
)

WINDOWS = make_test_windows([24, 17, 24])
dropexperts, mergeexperts = in_memory(DROP_EXPERTS.apply), in_memory(MERGE_EXPERTS.apply)
KINDS = [
    "gpt_oss",
    "olmoe",
    "granitemoe",
    "deepseek_v2",
    "glm4_moe",
    "ernie4_5_moe",
    "qwen3_next",
    "phimoe",
    "dots1",
]


def deepseek(**changes: Any) -> Any:
    """Sigmoid routing with a correction bias, among groups of experts, behind a dense first block."""
    own = {
        "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 12,
        "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "num_key_value_heads": 4, "head_dim": 8,
    }  # fmt: skip
    config = transformers.DeepseekV3Config(**{**SMALL, **own, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.3)
        for block in model.model.layers[1:]:
            block.mlp.gate.e_score_correction_bias.normal_(std=0.1)
    return with_noise(model)


def usage_by_hand(model: Any, windows: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens of each of Mixtral's experts and REAP's saliency, from the definitions, one window at a time."""
    tokens, weighted = [], []
    for block in model.model.layers:
        seen: list[torch.Tensor] = []
        handle = block.mlp.register_forward_pre_hook(lambda _, args, mine=seen: mine.append(args[0][0]))
        for ids in windows.token_ids:
            logits(model, torch.tensor([ids]))
        handle.remove()
        x = torch.cat(seen)
        probabilities = (x @ block.mlp.gate.weight.T).softmax(dim=1)
        top = probabilities.topk(2, dim=1)
        gates = top.values / top.values.sum(dim=1, keepdim=True)
        count, total = np.zeros(4), np.zeros(4)
        for token in range(len(x)):
            for gate, expert in zip(gates[token].tolist(), top.indices[token].tolist(), strict=True):
                gate_up = block.mlp.experts.gate_up_proj[expert] @ x[token]
                half = len(gate_up) // 2
                out = block.mlp.experts.down_proj[expert] @ (
                    torch.nn.functional.silu(gate_up[:half]) * gate_up[half:]
                )
                count[expert] += 1
                total[expert] += gate * float(out.norm())
        tokens.append(count)
        weighted.append(total / np.maximum(count, 1))
    return tokens, weighted


@torch.no_grad()
def test_saliency_is_recomputed_token_by_token() -> None:
    model = with_noise(tiny_model("mixtral"))
    decoder = find_blocks(model)
    usages = measure_usage(
        Loaded(model, decoder), find_mixtures(model, decoder), Walk(WINDOWS), "dropexperts"
    )
    tokens, saliency = usage_by_hand(model, WINDOWS)
    for usage, count, expected in zip(usages, tokens, saliency, strict=True):
        assert usage is not None
        assert usage.tokens.tolist() == count.tolist()
        assert usage.tokens.sum() == 2 * 65
        np.testing.assert_allclose(usage.saliency.numpy(), expected, rtol=1e-4)


@torch.no_grad()
def test_a_dropped_expert_is_one_that_the_router_cannot_choose(tmp_path: Path) -> None:
    """The same as minus infinity in the dense model's router, for every token."""
    model = with_noise(tiny_model("mixtral"))
    _, saliency = usage_by_hand(model, WINDOWS)
    dense = with_noise(tiny_model("mixtral"))
    report = dropexperts(model, find_blocks(model), 0.25, WINDOWS)
    for index, block in enumerate(dense.model.layers):
        gone = int(saliency[index].argmin())
        assert report.details["kept_experts"][index] == [e for e in range(4) if e != gone]

        def route(x: torch.Tensor, gate: Any = block.mlp.gate, gone: int = gone) -> tuple[torch.Tensor, ...]:
            scores = x.reshape(-1, x.shape[-1]) @ gate.weight.T
            scores[:, gone] = -torch.inf
            top = scores.softmax(dim=1).topk(2, dim=1)
            return scores, top.values / top.values.sum(dim=1, keepdim=True), top.indices

        block.mlp.gate.forward = route
    torch.testing.assert_close(logits(model), logits(dense))
    assert model.config.num_local_experts == 3
    generates_alike(loads_back(model, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [dropexperts, mergeexperts])
def test_mixtures_of_many_kinds_load_back(kind: str, method: Any, tmp_path: Path) -> None:
    model = with_noise(tiny(kind))
    report = method(model, find_blocks(model), 0.25, WINDOWS)
    assert report.removed[0].startswith("1 of 4 experts")
    assert report.parameters_after < report.parameters_before
    loads_back(model, tmp_path)


@pytest.mark.parametrize("method", [dropexperts, mergeexperts])
def test_groups_of_the_router_lose_alike(method: Any, tmp_path: Path) -> None:
    model = deepseek()
    dense = deepseek()
    report = method(model, find_blocks(model), 0.25, WINDOWS)
    assert model.config.n_routed_experts == 6
    assert type(model.model.layers[0].mlp).__name__ == type(dense.model.layers[0].mlp).__name__
    for index in (1, 2):
        if method is dropexperts:
            leaders = report.details["kept_experts"][index]
        else:
            clusters = report.details["clusters"][index]
            assert sorted(e for c in clusters for e in c) == list(range(8))
            assert all(len({e // 4 for e in c}) == 1 for c in clusters)
            leaders = [c[0] for c in clusters]
        assert [sum(e // 4 == group for e in leaders) for group in (0, 1)] == [3, 3]
        for name in ("weight", "e_score_correction_bias"):
            mine, theirs = (getattr(m.model.layers[index].mlp.gate, name) for m in (model, dense))
            assert torch.equal(mine, theirs[leaders])
    generates_alike(loads_back(model, tmp_path))


def test_routers_that_would_have_too_few_experts_are_refused() -> None:
    refused(deepseek(), dropexperts, 0.4, WINDOWS, match="into which 5 experts can't be divided")
    refused(deepseek(), dropexperts, 0.75, WINDOWS, match="1 per group would be left")
    refused(
        tiny_model("mixtral"),
        dropexperts,
        0.75,
        WINDOWS,
        match="chooses 2 experts per token, and 1 would be left",
    )
    refused(tiny_model("mixtral"), mergeexperts, 0.2, WINDOWS, match="would remove 0 of 4 experts")
    refused(tiny_model("llama"), dropexperts, 0.25, WINDOWS, match="no mixture of experts")
    refused(tiny_model("mixtral"), mergeexperts, 0.25, None, match="needs calibration text")


def test_statistics_that_are_no_numbers_are_refused() -> None:
    model = tiny_model("mixtral")
    windows = make_test_windows([60])
    late = next(token for token in windows.token_ids[0][48:] if token not in windows.token_ids[0][:48])
    with torch.no_grad():
        model.model.embed_tokens.weight[late] = torch.inf
    refused(model, dropexperts, 0.25, windows, match="NaN or infinite")


def test_an_expert_that_no_token_reaches_goes_first() -> None:
    model = deepseek(n_group=1)
    with torch.no_grad():
        for block in model.model.layers[1:]:
            block.mlp.gate.e_score_correction_bias[5] = -100
    expected = logits(model)
    report = dropexperts(model, find_blocks(model), 1, WINDOWS)
    assert report.details["tokens"][0] is None
    assert [tokens[5] for tokens in report.details["tokens"][1:]] == [0, 0]
    assert report.details["kept_experts"][1:] == [[0, 1, 2, 3, 4, 6, 7]] * 2
    assert report.notes == ("2 experts were sent no calibration token",)
    torch.testing.assert_close(logits(model), expected)


@torch.no_grad()
def test_merged_experts_are_averages_by_use(tmp_path: Path) -> None:
    """Twins merge into themselves; others into the mean by how many tokens they got, with the busier one's row."""
    model = with_noise(tiny_model("mixtral"))
    for block in model.model.layers:
        for name in ("gate_up_proj", "down_proj"):
            getattr(block.mlp.experts, name)[3] = getattr(block.mlp.experts, name)[1]
    dense = with_noise(tiny_model("mixtral"))
    tokens, _ = usage_by_hand(model, WINDOWS)
    twin = [block.mlp.experts.down_proj[1].clone() for block in model.model.layers]
    old = {name: value.clone() for name, value in model.state_dict().items()}
    report = mergeexperts(model, find_blocks(model), 0.5, WINDOWS)
    for index, clusters in enumerate(report.details["clusters"]):
        assert any({1, 3} <= set(c) for c in clusters)
        assert [c[0] for c in clusters] == sorted(c[0] for c in clusters)
        for place, members in enumerate(clusters):
            assert members[0] == max(members, key=lambda e: tokens[index][e])
            shares = torch.tensor(tokens[index][members]).float()
            shares = shares / shares.sum()
            prefix = f"model.layers.{index}.mlp"
            for name in ("experts.gate_up_proj", "experts.down_proj"):
                expected = torch.einsum("e,eab->ab", shares, old[f"{prefix}.{name}"][members])
                torch.testing.assert_close(model.state_dict()[f"{prefix}.{name}"][place], expected)
            row = model.state_dict()[f"{prefix}.gate.weight"][place]
            assert torch.equal(row, dense.state_dict()[f"{prefix}.gate.weight"][members[0]])
            if set(members) == {1, 3}:
                torch.testing.assert_close(
                    model.model.layers[index].mlp.experts.down_proj[place], twin[index]
                )
    generates_alike(loads_back(model, tmp_path))


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 10_000))
def test_clusters_equal_scipys_average_linkage(points: int, dimensions: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(points, dimensions))
    for count in range(1, points + 1):
        found = cluster(torch.tensor(values), count)
        labels = fcluster(linkage(values, "average"), count, "maxclust")
        expected = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels)}
        assert {frozenset(each) for each in found} == expected
        assert sorted(e for each in found for e in each) == list(range(points))


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_the_highest_of_every_group_stay(groups: int, each: int, data: Any) -> None:
    scores = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=groups * each, max_size=groups * each))
    )
    left = data.draw(st.integers(1, each))
    kept = keep_highest(scores, left * groups, groups)
    assert kept == sorted(set(kept))
    for group in range(groups):
        mine = [e for e in kept if e // each == group]
        gone = [e for e in range(group * each, (group + 1) * each) if e not in mine]
        assert len(mine) == left
        assert all(scores[a] >= scores[b] for a in mine for b in gone)


def test_as_a_step_of_an_arm() -> None:
    model = tiny_model("qwen3_moe", moe_intermediate_size=16).to(torch.bfloat16)
    implementation = model.config._experts_implementation
    (step,) = parse_arm("dropexperts:0.5").steps
    report = compress(model, step, WINDOWS)
    assert report.reshaped is not None
    assert report.reshaped["after"] == {"num_local_experts": 2}
    assert report.size_bytes == sum(p.nbytes for p in model.parameters())
    assert model.config._experts_implementation == implementation
    assert torch.isfinite(logits(model)).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", [dropexperts, mergeexperts])
@pytest.mark.parametrize("kind", kinds())
def test_every_architecture_loads_back_or_says_why_not(kind: str, method: Any, tmp_path: Path) -> None:
    every_architecture(kind, method, 0.25, folder=tmp_path)


@pytest.mark.parametrize(
    ("arm", "share", "warned"), [("dropexperts:0.8", 0.75, True), ("mergeexperts:0.5", 0.5, False)]
)
def test_the_share_that_went_is_told(arm: str, share: float, warned: bool) -> None:
    (step,) = parse_arm(arm).steps
    report = compress(tiny_model("mixtral", num_experts_per_tok=1), step, WINDOWS)
    assert report.reshaped is not None
    assert report.reshaped["share"] == share
    assert f"({share:.1%})" in summary(report)
    told = "75.0% of the experts went where 80.0% were asked for: only whole experts go"
    assert (told in report.warnings) == warned


@pytest.mark.parametrize(
    ("arm", "share", "of"),
    [
        ("shortgpt:0.5", 1 / 3, "blocks"),
        ("slicegpt:0.3", 0.25, "hidden size"),
        ("flap:0.3", 2 / 7, "matrices' weights"),
    ],
)
def test_so_do_the_other_methods_that_round(arm: str, share: float, of: str) -> None:
    (step,) = parse_arm(arm).steps
    report = compress(tiny_model("llama"), step, WINDOWS)
    assert report.reshaped is not None
    assert report.reshaped["share"] == pytest.approx(share)
    assert any(f"{share:.1%} of the {of} went where" in warning for warning in report.warnings)
