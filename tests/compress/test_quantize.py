from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.folder import compress_folder
from anomia.compress.matrices import all_matrices
from anomia.compress.spec import parse_arm
from anomia.errors import CompressionError, MissingExtraError

from .conftest import make_test_windows, tiny_model
from .test_folder import save_model

EVEN: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}


def need(package: str) -> Any:
    return pytest.importorskip(package, reason=f"{package} is not installed: pip install 'anomia[quant]'")


def step_of(text: str) -> Any:
    return parse_arm(text).steps[0]


@pytest.mark.parametrize("text", ["int8", "int4", "int4:group=64", "int3", "int2"])
@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_the_model_computes_what_torchaos_computes(text: str, family: str) -> None:
    torchao = need("torchao.quantization")
    changes = EVEN | ({"n_embd": 128, "n_inner": 256} if family == "gpt2" else {})
    model, dense = tiny_model(family, **changes), tiny_model(family, **changes)
    step = step_of(text)
    report = compress(model, step)
    group = step.option("group")
    granularity = torchao.PerAxis(0) if group is None else torchao.PerGroup(group)
    config = torchao.IntxWeightOnlyConfig(weight_dtype=getattr(torch, step.method), granularity=granularity)
    pairs = zip(find_blocks(model).modules, find_blocks(dense).modules, strict=True)
    for mine, theirs in pairs:
        for got, was in zip(all_matrices(mine, ""), all_matrices(theirs, ""), strict=True):
            layer = torch.nn.Linear(was.weight.shape[1], was.weight.shape[0], bias=False)
            layer.weight.data.copy_(was.weight)
            inputs = torch.randn(3, was.weight.shape[1], generator=torch.Generator().manual_seed(1))
            torchao.quantize_(layer, config)
            torch.testing.assert_close(inputs @ got.weight.T, layer(inputs), rtol=1e-5, atol=1e-5)
            levels = got.weight[0, : group or got.weight.shape[1]].unique()
            assert len(levels) <= 2 ** int(step.method[3:])
    assert any("dense model's" in warning for warning in report.warnings)
    assert torch.equal(model.get_output_embeddings().weight, dense.get_output_embeddings().weight)


def test_more_bits_come_closer() -> None:
    need("torchao.quantization")
    ids = torch.randint(0, 96, (4, 30), generator=torch.Generator().manual_seed(2))
    errors = []
    with torch.no_grad():
        dense = tiny_model("llama", **EVEN)(input_ids=ids).logits
        for method in ("int8", "int4", "int3", "int2"):
            model = tiny_model("llama", **EVEN)
            compress(model, step_of(method))
            errors.append(float((model(input_ids=ids).logits - dense).pow(2).mean()))
    assert errors == sorted(errors)


@pytest.mark.parametrize("method", ["int8", "int4", "nf4"])
def test_a_chain_keeps_the_zeros(method: str) -> None:
    need("bitsandbytes" if method == "nf4" else "torchao.quantization")
    model = tiny_model("llama", **EVEN)
    first, second = parse_arm(f"wanda:0.5+{method}").steps
    pruned = compress(model, first, make_test_windows([30, 20]))
    masks = [matrix.weight == 0 for block in find_blocks(model).modules for matrix in all_matrices(block, "")]
    quantized = compress(model, second)
    after = [matrix.weight == 0 for block in find_blocks(model).modules for matrix in all_matrices(block, "")]
    assert all(bool((now | ~before).all()) for before, now in zip(masks, after, strict=True))
    assert quantized.sparsity >= pruned.sparsity


def test_nf4_has_sixteen_levels_a_block() -> None:
    need("bitsandbytes")
    model, dense = tiny_model("llama", **EVEN), tiny_model("llama", **EVEN)
    compress(model, step_of("nf4"))
    mine, theirs = (m.model.layers[0].mlp.up_proj.weight.data for m in (model, dense))
    assert len(mine[0, :64].unique()) <= 16
    assert 0 < float((mine - theirs).abs().max()) < float(theirs.abs().max()) / 3


def test_llm_int8_rounds_activations_too() -> None:
    need("bitsandbytes")
    model, dense = tiny_model("llama", **EVEN), tiny_model("llama", **EVEN)
    report = compress(model, step_of("llm.int8"))
    ids = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, expected = model(input_ids=ids).logits, dense(input_ids=ids).logits
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.int8
    # With the rounded weights alone the outputs would be those of their values, codes · scale / 127.
    inputs = torch.randn(4, 128, generator=torch.Generator().manual_seed(4))
    values = layer.weight.float() * layer.state.SCB[:, None] / 127
    assert float((layer(inputs) - inputs @ values.T).abs().max()) > 1e-3
    assert 0 < float((ours - expected).abs().mean()) < 0.15 * float(expected.abs().mean())
    assert len(report.matrices) == 21
    with pytest.raises(CompressionError, match=r"mlp\.c_fc|attn\.c_attn"):
        compress(tiny_model("gpt2"), step_of("llm.int8"))


def test_an_llm_int8_folder_is_loaded_back_as_it_was_in_memory(tmp_path: Path) -> None:
    need("bitsandbytes")
    save_model("llama", tmp_path / "in", **EVEN)
    compress_folder(str(tmp_path / "in"), tmp_path / "out", [step_of("llm.int8")])
    expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in").eval()
    compress(expected, step_of("llm.int8"))
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    ids = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(found(input_ids=ids).logits, expected(input_ids=ids).logits)
    assert torch.equal(
        found.model.layers[1].self_attn.q_proj.weight, expected.model.layers[1].self_attn.q_proj.weight
    )


def test_a_group_that_does_not_divide_is_refused_before_any_work() -> None:
    model = tiny_model("llama", **EVEN | {"intermediate_size": 192})
    before = model.model.layers[0].self_attn.q_proj.weight.clone()
    with pytest.raises(
        CompressionError, match=r"down_proj has 192 inputs, .* int4:group=64 fits every matrix"
    ):
        compress(model, step_of("int4"))
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, before)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    model = tiny_model("llama", **EVEN)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"torchao: pip install 'anomia\[quant\]'"):
        compress(model, step_of("int8"))


def test_bitsandbytes_without_a_usable_device_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    class Functional:
        @staticmethod
        def quantize_4bit(*_: Any, **__: Any) -> Any:
            raise NotImplementedError("no kernel for cpu")

    model = tiny_model("llama", **EVEN)
    monkeypatch.setattr(importlib, "import_module", lambda name: Functional)
    with pytest.raises(CompressionError, match="nf4: the installed bitsandbytes can't work on cpu"):
        compress(model, step_of("nf4"))


@pytest.mark.parametrize("arm", ["int8", "gptq:8,group=8"])
def test_small_weights_in_float16_keep_their_precision(arm: str) -> None:
    """Scales below float16's normal numbers are not lifted to the smallest of these."""
    errors = []
    for dtype in (torch.float32, torch.float16):
        model = tiny_model("llama").to(dtype)
        for name, parameter in model.named_parameters():
            if "layers" in name and parameter.dim() == 2:
                parameter.data = (parameter.data.float() / 600).to(dtype)
        before = {
            name: value.float().clone() for name, value in model.state_dict().items() if "up_proj" in name
        }
        compress(model, parse_arm(arm).steps[0], make_test_windows([60] * 4))
        after = {name: value.float() for name, value in model.state_dict().items()}
        errors.append(max(float((after[n] - b).norm() / b.norm()) for n, b in before.items()))
    assert errors[1] < 1.1 * errors[0]
