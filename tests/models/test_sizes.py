"""Sizes of every decoder that transformers has, whatever its configuration looks like."""

from __future__ import annotations

import copy
from contextlib import suppress
from types import SimpleNamespace

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from anomia.models.sizes import number, sizes_of
from anomia.plan.cost import _active_experts

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
