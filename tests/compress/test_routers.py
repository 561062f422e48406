"""What selects among experts stays as it is, and the report names it; every other matrix of the mixture is pruned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks, find_matrices
from anomia.compress.spec import parse_arm
from tests.compress.conftest import SMALL, make_test_windows, tiny_model

MIXTURES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "qwen2_moe": (
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12},
        {"mlp.gate", "mlp.shared_expert_gate"},
    ),
    "hunyuan_v1_moe": ({"num_experts": 4, "moe_topk": 2}, {"mlp.gate.wg"}),
    "phimoe": ({"num_local_experts": 4, "num_experts_per_tok": 2}, {"mlp.router"}),
    "afmoe": (
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "num_dense_layers": 1},
        {"mlp.router.gate"},
    ),
}  # fmt: skip


def mixture(kind: str) -> Any:
    own, _ = MIXTURES[kind]
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **own})
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", list(MIXTURES))
@pytest.mark.parametrize("arm", ["magnitude:0.5", "wanda:0.5", "int8"])
def test_routers_keep_every_bit(kind: str, arm: str) -> None:
    model = mixture(kind)
    routers = MIXTURES[kind][1]
    before = {name: value.clone() for name, value in model.named_parameters()}
    (step,) = parse_arm(arm).steps
    report = compress(model, step, make_test_windows([24] * 4) if arm.startswith("wanda") else None)
    kept = [name for name in before if any(f".{router}." in name for router in routers)]
    assert kept
    assert all(torch.equal(model.get_parameter(name), before[name]) for name in kept)
    assert set(kept) <= set(report.left_dense)
    assert not any(matrix.name.endswith(f".{router}") for matrix in report.matrices for router in routers)
    assert any("experts" in matrix.name for matrix in report.matrices)


def test_a_dense_model_has_no_router() -> None:
    """A layer with as many outputs as there are blocks, or heads, is none."""
    block = find_blocks(tiny_model("llama")).modules[0]
    assert len(find_matrices(block, where="b")) == 7
