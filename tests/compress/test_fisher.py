"""The diagonal Fisher mask, against gradients taken one window at a time with plain autograd."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from anomia.compress.apply import compress
from anomia.compress.calibration import Windows
from anomia.compress.spec import parse_arm

from .conftest import make_test_windows, tiny_model


def with_answers(windows: Windows, start: int | None) -> Windows:
    return Windows(windows.token_ids, windows.languages, windows.record, (start,) * len(windows.token_ids))


def fisher_of(model: Any, windows: Windows, name: str, start: int) -> torch.Tensor:
    """The squared gradient of the answers' log probability, summed over windows: [out, in]."""
    weight = model.get_parameter(name)
    total = torch.zeros_like(weight)
    for ids in windows.token_ids:
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        said = sum(logits[place - 1, ids[place]] for place in range(start, len(ids)))
        (gradient,) = torch.autograd.grad(said, weight)
        total += gradient**2
    return total


@pytest.mark.parametrize("start", [None, 12])
def test_the_mask_is_the_lowest_half_of_each_row_by_squared_weight_times_fisher(start: int | None) -> None:
    base = tiny_model("llama")
    windows = make_test_windows([16] * 6)
    model = copy.deepcopy(base)
    compress(model, parse_arm("fisher:0.5").steps[0], with_answers(windows, start))  # type: ignore[arg-type]
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.2.mlp.down_proj.weight"):
        weight = base.get_parameter(name)
        score = weight.detach() ** 2 * fisher_of(base, windows, name, 1 if start is None else start)
        pruned = model.get_parameter(name) == 0
        count = weight.shape[1] // 2
        assert (pruned.sum(dim=1) == count).all()
        lowest = score.argsort(dim=1, stable=True)[:, :count]
        expected = torch.zeros_like(pruned).scatter_(1, lowest, torch.ones_like(lowest, dtype=torch.bool))
        # Scores that differ in the last bits may change places.
        assert (pruned != expected).float().mean() < 0.01
    assert all(parameter.grad is None for parameter in model.parameters())


def test_answers_alone_decide_where_there_are_some() -> None:
    """Another prompt before the same answers changes the gradients, but prompt tokens are no part of the loss."""
    windows = make_test_windows([16] * 6)
    masks = []
    for start in (None, 12):
        model = tiny_model("llama")
        compress(model, parse_arm("fisher:0.5").steps[0], with_answers(windows, start))  # type: ignore[arg-type]
        masks.append(model.model.layers[1].mlp.up_proj.weight == 0)
    assert not torch.equal(*masks)
