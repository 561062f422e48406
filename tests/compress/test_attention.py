from __future__ import annotations

import pytest
import torch

from anomia.compress.attention import NAME, strip_attention, strips_where_faster

from .conftest import FAMILIES, tiny_model


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma2"])
@pytest.mark.parametrize("length", [300, 7])
def test_strips_give_the_logits_of_sdpa(family: str, length: int) -> None:
    changes = {"max_position_embeddings": 512} | ({"n_positions": 512} if family == "gpt2" else {})
    model = tiny_model(family, **changes)
    ids = torch.randint(0, 96, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # Weights that bfloat16 can hold, computed in float32: a small difference can only be the attention's.
        expected = model.to(torch.bfloat16).float()(input_ids=ids).logits
        with strips_where_faster(model.to(torch.bfloat16)):
            assert model.config._attn_implementation == NAME
            torch.testing.assert_close(model.float()(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-3)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("mask_kind", ["causal", "window", "additive"])
def test_masks_and_shared_heads(mask_kind: str) -> None:
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, 6, 600, 8, generator=generator)
    key, value = (torch.randn(2, 2, 600, 8, generator=generator) for _ in range(2))
    position = torch.arange(600)
    seen = position[None, :] <= position[:, None]
    if mask_kind != "causal":
        seen = seen & (position[None, :] > position[:, None] - 50)
    mask = {
        "causal": None,
        "window": seen[None, None],
        "additive": torch.zeros(1, 1, 600, 600).masked_fill(~seen, torch.finfo(torch.float32).min),
    }[mask_kind]
    mine, _ = strip_attention(torch.nn.Identity(), query, key, value, mask, is_causal=True)
    repeated = (tensor.repeat_interleave(3, dim=1) for tensor in (key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, attn_mask=seen)
    torch.testing.assert_close(mine, expected.transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_only_half_precision_on_the_cpu_is_changed() -> None:
    model = tiny_model("llama")
    with strips_where_faster(model):
        assert model.config._attn_implementation == "sdpa"
