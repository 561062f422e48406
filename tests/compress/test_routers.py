"""What selects among experts stays as it is, and the report names it; every other matrix of the mixture is pruned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.left_dense import BARE, FEW, ROUTER, why_dense
from anomia.compress.matrices import find_matrices
from anomia.compress.spec import parse_arm
from anomia.models.tensors import file_names
from tests.compress.architectures import tiny
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
    stored = file_names(model, kept)
    assert {place for name in kept for place in stored[name]} <= set(report.left_dense)
    assert not any(matrix.name.endswith(f".{router}") for matrix in report.matrices for router in routers)
    assert any("experts" in matrix.name for matrix in report.matrices)


@pytest.mark.parametrize("width", [4, 16])
def test_a_shared_expert_that_is_as_wide_as_there_are_experts_is_no_router(width: int) -> None:
    """Its first matrices have an output for each expert too, and its last one where the hidden states have; they are read
    by the layer beside them."""
    own = {
        "num_experts": width, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": width,
    }  # fmt: skip
    config = transformers.CONFIG_MAPPING["qwen2_moe"](**{**SMALL, **own})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    names = {matrix.name for matrix in find_matrices(find_blocks(model).modules[0], where="b")}
    assert {f"mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")} <= names
    assert not {"mlp.gate", "mlp.shared_expert_gate"} & names


class _Selections(TorchDispatchMode):
    """Which of some matrices give something that a top-k or argmax chooses among, with no product in between."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.names = {weight.untyped_storage().data_ptr(): name for name, weight in weights.items()}
        self.tainted: dict[int, tuple[torch.Tensor, str]] = {}
        self.selecting: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [a for a in args if torch.is_tensor(a)]
        if name in ("mm", "addmm", "bmm"):
            sources = {self.names.get(t.untyped_storage().data_ptr()) for t in tensors} - {None}
        else:
            sources = {self.tainted[id(t)][1] for t in tensors if id(t) in self.tainted}
            if name in ("topk", "argmax", "sort", "max"):
                self.selecting |= sources
        for each in out if isinstance(out, tuple | list) else (out,):
            if torch.is_tensor(each) and each.is_floating_point() and len(sources) == 1:
                self.tainted[id(each)] = (each, next(iter(sources)))
        return out


@pytest.mark.parametrize(
    "kind",
    [
        "qwen2_moe",
        "hunyuan_v1_moe",
        "phimoe",
        "afmoe",
        "mixtral",
        "deepseek_v3",
        "dots1",
        "llama4_text",
        "jetmoe",
    ],
)
def test_what_is_called_a_router_is_what_selects(kind: str) -> None:
    """Traced while a model runs: its output reaches a top-k before any other product."""
    model = mixture(kind) if kind in MIXTURES else tiny(kind)
    decoder = find_blocks(model)
    routers = {name for name, why in why_dense(model, decoder).items() if why == ROUTER}
    weights = {name: p for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name}
    selections = _Selections(weights)
    with selections, torch.no_grad():
        model(input_ids=torch.arange(3, 27)[None] % 90, use_cache=False)
    gates = {name for name in routers if len(model.get_parameter(name)) == 1}
    assert selections.selecting == routers - gates
    assert selections.selecting


def test_a_dense_model_has_no_router() -> None:
    """A layer with as many outputs as there are blocks, or heads, is none."""
    block = find_blocks(tiny_model("llama")).modules[0]
    assert len(find_matrices(block, where="b")) == 7


def test_what_feeds_only_a_router_is_one() -> None:
    """Zaya's router is a small network: `down_proj`, then `router_mlp`, whose output alone is read."""
    model = tiny("zaya")
    decoder = find_blocks(model)
    routers = {name for name, why in why_dense(model, decoder).items() if why == ROUTER and ".0." in name}
    assert {name.split(".gate.")[1] for name in routers} == {
        "down_proj.weight",
        *(f"router_mlp.{part}.weight" for part in ("fc1", "fc2", "out_proj")),
    }
    pruned = {matrix.name for matrix in find_matrices(decoder.modules[0], where="b")}
    assert not any("gate" in name for name in pruned)
    assert "self_attn.o_proj" in pruned


def test_a_gate_beside_experts_is_dense_as_a_whole() -> None:
    """Told by the number of experts, without a name."""
    model = mixture("qwen2_moe")
    block = find_blocks(model).modules[0]

    class Gate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(16, 8)
            self.second = torch.nn.Linear(8, 4)

    before = {matrix.name for matrix in find_matrices(block, where="b")}
    block.mlp.gate = Gate()
    assert {matrix.name for matrix in find_matrices(block, where="b")} == before


def test_the_states_of_mamba_heads_are_no_router() -> None:
    """Zamba stacks its heads' matrices like experts; A_log and D have an entry for each head as well."""
    model = tiny("zamba")
    why = why_dense(model, find_blocks(model))
    assert {why[name] for name in why if name.endswith(("A_log", ".D"))} == {BARE}
    assert ROUTER not in why.values()


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
def test_a_gate_that_is_a_sequence_of_layers_is_dense(kind: str, deep: bool) -> None:
    """A number in a path is a part of an expert only below a list of modules."""
    model = mixture(kind) if kind in MIXTURES else tiny_model(kind)
    block = find_blocks(model).modules[0]
    before = {matrix.name for matrix in find_matrices(block, where="b")}
    first = [nn.Linear(16, 8), nn.Tanh()] if deep else []
    block.mlp.gate = nn.Sequential(*first, nn.Linear(8 if deep else 16, 4))
    assert {matrix.name for matrix in find_matrices(block, where="b")} == before
    # Two layers after each other that are no gate: what the second one reads, the first one gives.
    block.mlp.shared = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 16))
    assert {matrix.name for matrix in find_matrices(block, where="b")} == before | {
        "mlp.shared.0",
        "mlp.shared.2",
    }


class _Invented(nn.Module):
    """A block that holds its experts itself, with a router of another name and a matrix that is only called one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.picker = nn.Linear(16, 4)
        self.router_up = nn.Linear(16, 24)
        self.router_down = nn.Linear(24, 16)
        self.attention = nn.ModuleDict({"heads": nn.Linear(16, 4), "out": nn.Linear(4, 16)})
        self.low_rank = nn.ModuleDict({"router_in": nn.Linear(16, 4), "router_out": nn.Linear(4, 16)})


def test_what_a_layer_does_comes_before_its_name() -> None:
    names = {matrix.name for matrix in find_matrices(_Invented(), where="b")}
    assert "picker" not in names
    assert {"router_up", "router_down", "attention.heads", "attention.out"} <= names
    assert {"low_rank.router_in", "low_rank.router_out"} <= names


@pytest.mark.parametrize("name", ["picker", "which"])
@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
def test_a_router_of_another_name_is_found(kind: str, name: str) -> None:
    model = mixture(kind) if kind in MIXTURES else tiny_model(kind)
    block = find_blocks(model).modules[0]
    before = {matrix.name for matrix in find_matrices(block, where="b")}
    del block.mlp.gate
    setattr(block.mlp, name, nn.Linear(16, 4))
    assert {matrix.name for matrix in find_matrices(block, where="b")} == before
    # A state of the width of the mixture's input is none, whatever its name.
    block.mlp.router = nn.Linear(16, 16)
    assert {matrix.name for matrix in find_matrices(block, where="b")} == before | {"mlp.router"}


def test_a_choice_among_no_experts_is_known_by_its_name() -> None:
    """Gemma 3n's `modality_router` gives four coefficients for copies of the states."""
    model = tiny("gemma3n_text")
    why = why_dense(model, find_blocks(model))
    routers = {name.split(".", 3)[3] for name, reason in why.items() if reason == ROUTER}
    assert routers == {"altup.modality_router.weight"}
    few = {name.split(".", 3)[3] for name, reason in why.items() if reason == FEW}
    assert few == {"altup.prediction_coefs.weight", "altup.correction_coefs.weight"}


ROUTERS = {
    "mixtral": {"mlp.gate"},
    "qwen2_moe": {"mlp.gate", "mlp.shared_expert_gate"},
    "qwen3_moe": {"mlp.gate"},
    "qwen3_next": {"mlp.gate", "mlp.shared_expert_gate"},
    "qwen3_5_moe_text": {"mlp.gate", "mlp.shared_expert_gate"},
    "hunyuan_v1_moe": {"mlp.gate.wg"},
    "phimoe": {"mlp.router"},
    "afmoe": {"mlp.router.gate"},
    "deepseek_v2": {"mlp.gate"},
    "deepseek_v3": {"mlp.gate"},
    "olmoe": {"mlp.gate"},
    "granitemoe": {"block_sparse_moe.router"},
    "llama4_text": {"feed_forward.router"},
    "gpt_oss": {"mlp.router"},
    "jamba": {"feed_forward.router"},
    "jetmoe": {"mlp.router.layer", "self_attention.experts.router.layer"},
    "longcat_flash": {"mlp.router.classifier"},
}


@pytest.mark.parametrize("kind", list(ROUTERS))
def test_the_report_lists_each_router(kind: str) -> None:
    model = mixture(kind) if kind in MIXTURES else tiny(kind)
    why = why_dense(model, find_blocks(model))
    found = {name for name, reason in why.items() if reason == ROUTER}
    assert {name.split(".", 3)[3].removesuffix(".weight") for name in found} == ROUTERS[kind]
