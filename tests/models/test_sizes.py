"""Sizes of every decoder that transformers has, whatever its configuration looks like."""

from __future__ import annotations

import ast
import copy
import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import anomia
from anomia.compress.apply import compress
from anomia.compress.calls import text_limit
from anomia.compress.methods import embeddings
from anomia.compress.outputs import check_outputs
from anomia.compress.perplexity import perplexity
from anomia.compress.spec import parse_arm
from anomia.models import sizes
from anomia.models.load import LoadedModel
from anomia.models.sizes import (
    fraction,
    layers_of,
    number,
    positions_of,
    sizes_of,
    types_of,
    vocabulary_of,
)
from anomia.models.tensors import ignorable
from anomia.plan.cost import _active_experts
from anomia.probe.precision import cost_of_float32
from anomia.probe.select import supports_tree
from anomia.probe.selftest import declared_windows
from tests.compress.conftest import tiny_model

ANY = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers() | st.none())
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_every_configuration_has_sizes(kind: str) -> None:
    try:
        config = transformers.CONFIG_MAPPING[kind]()
    except Exception as error:
        pytest.skip(f"it has no default configuration: {error}")
    try:
        text = config.get_text_config()
    except ValueError as error:
        pytest.skip(f"it is no text model: {error}")
    found = sizes_of(text)
    assert all(isinstance(each, int) and each > 0 for each in found)
    layers = number(text, "num_hidden_layers")
    assert found.layers >= (layers or 1)
    # Of BLT the sizes stand in the configurations of its parts; there the embeddings tell.
    assert found.width > 1 or kind == "blt"
    assert 0 < _active_experts(text) <= 1


FIELDS = (
    "num_hidden_layers", "hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "num_experts", "num_experts_per_tok", "n_routed_experts", "moe_intermediate_size", "n_embd", "n_head", "n_inner",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_no_field_of_a_configuration_is_trusted(kind: str) -> None:
    """None, a list with a value per layer, and a dictionary, wherever the class takes them."""
    try:
        text = transformers.CONFIG_MAPPING[kind]().get_text_config()
    except Exception as error:
        pytest.skip(f"it has no default configuration: {error}")
    for name in FIELDS:
        for value in (None, [8, 16], [None, 16], [], {"a": 8}, 0, "8"):
            changed = copy.deepcopy(text)
            # A class may refuse the value.
            with suppress(Exception):
                setattr(changed, name, value)
            assert all(isinstance(each, int) and each > 0 for each in sizes_of(changed)), (name, value)
            assert 0 < _active_experts(changed) <= 1, (name, value)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["num_hidden_layers", "hidden_size", "head_dim", "num_attention_heads",
                                        "num_key_value_heads", "intermediate_size", "num_experts"]), ANY))  # fmt: skip
def test_no_field_is_trusted_to_be_a_number(fields: dict[str, object]) -> None:
    config = SimpleNamespace(**fields)
    assert all(isinstance(each, int) and each > 0 for each in sizes_of(config))
    assert 0 < _active_experts(config) <= 1


def test_the_largest_of_a_list_counts() -> None:
    config = SimpleNamespace(intermediate_size=[8192, 16384, None], head_dim=256, global_head_dim=512)
    assert number(config, "intermediate_size") == 16384
    assert sizes_of(config).head == 512


SOURCE = Path(anomia.__file__).parent
READ_ELSEWHERE = {
    ("compress/methods/permute.py", "getattr(module, 'head_dim', None)"): "a module's own attribute",
}
SIZES = {
    name for names in vars(sizes).values() if isinstance(names, tuple) for name in names
} | {
    "vocab_size", "vocab_size_per_layer_input", "max_position_embeddings", "original_max_position_embeddings",
    "sliding_window", "num_nextn_predict_layers", "final_logit_softcapping", "num_experts", "num_local_experts",
    "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "layer_types", "attention_chunk_size",
}  # fmt: skip


def test_sizes_of_a_configuration_are_read_in_one_module() -> None:
    """A field may be None, a list, a string or a value per layer, so nothing else takes it for a number."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            name, of = "", ""
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                name, of = node.attr, ast.unparse(node.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                name, of = str(getattr(node.args[1], "value", "")), ast.unparse(node.args[0])
            # "dim" is also a method of tensors.
            if name in SIZES and (name != "dim" or "config" in of):
                found.append((str(file.relative_to(SOURCE)), ast.unparse(node)))
    assert [each for each in found if each not in READ_ELSEWHERE and each[0] != "models/sizes.py"] == []


ODD: tuple[Any, ...] = (None, [128, 96], [None, 64], [], {"a": 8}, 0, -1, "128", 128.5, True)


def check_reads(config: Any) -> None:
    """Every helper gives a usable value, whatever the fields are."""
    positions, layers = positions_of(config), layers_of(config)
    assert positions is None or (isinstance(positions, int) and positions > 0)
    assert layers is None or (isinstance(layers, int) and layers > 0)
    assert all(isinstance(kind, str) for kind in types_of(config) or ())
    assert fraction(config, "final_logit_softcapping") is None or True
    model: Any = SimpleNamespace(config=config, get_input_embeddings=lambda: torch.nn.Embedding(7, 2))
    assert vocabulary_of(model) > 0
    windows = declared_windows(model).values()
    assert all(window is None or (isinstance(window, int) and window > 0) for window in windows)
    assert ignorable("model.layers.99.mlp.weight", config) in (None, "multi-token prediction")


READ = (
    "max_position_embeddings", "num_hidden_layers", "sliding_window", "layer_types", "vocab_size", "hidden_size",
    "num_nextn_predict_layers", "final_logit_softcapping", "rope_parameters",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_no_reader_trusts_a_field(kind: str) -> None:
    try:
        config = transformers.CONFIG_MAPPING[kind]()
        config.get_text_config()
    except Exception as error:
        pytest.skip(f"it has no default configuration: {error}")
    check_reads(config)
    for name in READ:
        for value in ODD:
            changed = copy.deepcopy(config)
            # A class may refuse the value.
            with suppress(Exception):
                setattr(changed.get_text_config(), name, value)
            check_reads(changed)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("value", ODD, ids=json.dumps)
def test_a_model_with_an_odd_field_is_compressed_and_read(name: str, value: Any) -> None:
    model = tiny_model("mistral")
    model.config.__dict__[name] = value
    loaded = LoadedModel("x", model, None)
    assert loaded.positions in (None, 64, 96, 128)
    assert text_limit(model) in (None, 64, 96, 128)
    assert embeddings.notes(model, "q8_0") == []
    # The model's own forward reads these fields.
    if name in ("sliding_window", "layer_types", "num_hidden_layers"):
        return
    ids = {"input_ids": list(range(1, 40))}
    assert perplexity(model, lambda _: ids, "x").tokens == 38
    assert check_outputs(model) == ""
    compress(model, parse_arm("magnitude:0.5").steps[0])
    assert isinstance(supports_tree(model).ok, bool)
    cost_of_float32(model)
