"""The float32 likeness of a model: its first blocks of every kind, and nothing of the model changed."""

from __future__ import annotations

import pytest
import torch
import transformers

from anomia.probe.twin import shallow_twin

from .conftest import CONFIGURATIONS


def made(config):
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "gpt2", "qwen3"])
def test_the_first_blocks_answer_alike(name):
    config = CONFIGURATIONS[name]()
    model = made(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = shallow_twin(model)
    assert {parameter.dtype for parameter in twin.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.state_dict().keys() == before.keys()
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    types = getattr(config, "layer_types", None) or ["full"] * config.num_hidden_layers
    few = types[: twin.config.num_hidden_layers]
    assert set(few) == set(types)
    assert len(few) >= 2
    # By the library's own means: a model that is configured with so many blocks and has these weights.
    small = CONFIGURATIONS[name]()
    small.num_hidden_layers = len(few)
    if getattr(small, "layer_types", None):
        small.layer_types = few
    other = transformers.AutoModelForCausalLM.from_config(small).float().eval()
    shared = {key: value.float() for key, value in before.items() if key in other.state_dict()}
    other.load_state_dict(shared)
    ids = torch.tensor([[1, 5, 7, 9, 4, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(twin(ids).logits, other(ids).logits, rtol=1e-3, atol=1e-4)


def test_there_is_none_of_quantized_weights():
    model = made(CONFIGURATIONS["llama"]())
    linear = model.model.layers[0].mlp.up_proj
    linear.weight = torch.nn.Parameter(
        torch.zeros(linear.weight.shape, dtype=torch.int8), requires_grad=False
    )
    assert shallow_twin(model) is None
