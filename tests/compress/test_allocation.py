from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from anomia.compress.allocation import (
    cross_lingual_correlation,
    outlier_ratio,
    spread_sparsity,
)
from anomia.compress.apply import compress
from anomia.compress.blocks import find_blocks
from anomia.compress.matrices import WeightMatrix, find_matrices
from anomia.compress.methods.mwanda import language_factors, mwanda_cut
from anomia.compress.methods.prunerzero import prunerzero_cut
from anomia.compress.spec import parse_arm
from anomia.compress.statistics import InputStatistic, LanguageStatistic, SharedInput
from anomia.errors import CompressionError

from .conftest import make_test_windows, tiny_model


def statistic(
    sum_squares: list[float], languages: dict[str, LanguageStatistic] | None = None
) -> InputStatistic:
    return InputStatistic(torch.tensor(sum_squares), 1, None, languages or {})


def test_owl_counts_scores_above_five_times_the_mean() -> None:
    weight = torch.ones(2, 10)
    weight[0, 0] = 100.0
    group = SharedInput((WeightMatrix("w", weight),), statistic([1.0] * 10))
    assert outlier_ratio([group]) == pytest.approx(1 / 20)


def test_spread_keeps_the_mean_and_gives_important_blocks_more() -> None:
    sparsities = spread_sparsity([0.01, 0.05, 0.03], 0.6)
    assert sum(sparsities) / 3 == pytest.approx(0.6)
    assert sparsities[1] < sparsities[2] < sparsities[0]
    assert max(sparsities) - min(sparsities) == pytest.approx(0.16)
    assert spread_sparsity([0.2, 0.2], 0.5) == [0.5, 0.5]
    with pytest.raises(CompressionError, match="reaches from"):
        spread_sparsity([0.0, 1.0], 0.95)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "magnitude"])
def test_owl_prunes_each_block_to_its_own_sparsity(method: str) -> None:
    model = tiny_model("llama", hidden_size=64, intermediate_size=96)
    with torch.no_grad():
        for matrix in find_matrices(model.model.layers[1], where=""):
            loud = torch.rand(matrix.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.03
            matrix.weight[loud] *= 10
    arm = parse_arm(f"{method}:0.6,allocation=owl")
    report = compress(model, arm.steps[0], make_test_windows([30] * 8))
    assert len(report.block_sparsity) == 3
    assert min(report.block_sparsity) == report.block_sparsity[1]
    for index, sparsity in enumerate(report.block_sparsity):
        mine = [m for m in report.matrices if m.name.startswith(f"model.layers.{index}.")]
        achieved = sum(m.zeros for m in mine) / sum(m.shape[0] * m.shape[1] for m in mine)
        assert achieved == pytest.approx(sparsity, abs=0.02)


def two_languages(
    first: list[float], second: list[float], active: list[float]
) -> dict[str, LanguageStatistic]:
    return {
        "a": LanguageStatistic(torch.tensor(first), torch.tensor(active), 10),
        "b": LanguageStatistic(torch.tensor(second), torch.tensor(active), 10),
    }


def test_correlation_compares_languages() -> None:
    alike = SharedInput((), statistic([0.0], two_languages([1.0, 4.0, 9.0], [2.0, 8.0, 18.0], [0.0] * 3)))
    apart = SharedInput((), statistic([0.0], two_languages([1.0, 4.0, 9.0], [9.0, 4.0, 1.0], [0.0] * 3)))
    assert cross_lingual_correlation([alike]) == pytest.approx(1.0)
    assert cross_lingual_correlation([apart]) < 0
    assert cross_lingual_correlation([SharedInput((), statistic([1.0]))]) == 1.0


def test_mwanda_saves_what_one_language_needs() -> None:
    # Both inputs have the same mean level; the second is one language's own, the third is often active.
    given = statistic([0.0] * 3, two_languages([40.0, 160.0, 40.0], [40.0, 0.0, 40.0], [1.0, 1.0, 9.0]))
    factors = language_factors(given)
    assert factors[1] > factors[0]
    assert factors[2] > factors[0]
    assert mwanda_cut(torch.ones(1, 3), given, 0.34).mask.tolist() == [[True, False, False]]


def test_mwanda_runs_names_its_choices_and_spreads_sparsity() -> None:
    windows = make_test_windows([20] * 8)
    windows = replace(windows, languages=("english", "swahili") * 4)
    report = compress(tiny_model("gemma3"), parse_arm("mwanda:0.5").steps[0], windows)
    assert report.reconstruction
    assert not report.warnings
    assert len(report.block_sparsity) == 3
    assert report.sparsity == pytest.approx(0.5, abs=0.05)
    pattern = compress(tiny_model("gemma3"), parse_arm("mwanda:2:4").steps[0], windows)
    assert pattern.block_sparsity == ()
    alone = replace(windows, languages=("english",) * 8)
    (warning,) = compress(tiny_model("gemma3"), parse_arm("mwanda:2:4").steps[0], alone).warnings
    assert "its calibration text has one" in warning


def test_prunerzero_is_the_published_tree() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    gradient = torch.tensor([[4.0, 1.0, 2.0, 8.0]])
    scores = weight**2 * (gradient - 1) / 7
    order = scores.argsort(dim=1)[:, :2]
    expected = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, order, True)
    assert torch.equal(prunerzero_cut(weight, gradient, 0.5).mask, expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_prunerzero_uses_the_gradient_of_each_window(family: str) -> None:
    windows = make_test_windows([12, 20, 7])
    model, dense = tiny_model(family), tiny_model(family)
    report = compress(model, parse_arm("prunerzero:0.5").steps[0], windows)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    name, block = "mlp.down_proj", find_blocks(dense).modules[2]
    if family == "mixtral":
        return
    weight = block.get_submodule(name if family == "llama" else "mlp.c_fc").weight
    total = torch.zeros_like(weight)
    for ids in windows.token_ids:
        row = torch.tensor([ids])
        dense.zero_grad()
        dense(input_ids=row, labels=row).loss.backward()
        total += weight.grad**2
    pruned = find_blocks(model).modules[2].get_submodule(name if family == "llama" else "mlp.c_fc").weight
    gradient = total.sqrt() if family == "llama" else total.sqrt().T
    expected = prunerzero_cut(weight.data if family == "llama" else weight.data.T, gradient, 0.5).mask
    assert torch.equal((pruned if family == "llama" else pruned.T) == 0, expected)


def test_blocks_of_unequal_size_give_the_asked_sparsity_over_all_weights() -> None:
    weights = [100, 900, 400]
    found = spread_sparsity([0.1, 0.9, 0.5], 0.5, weights=weights)
    assert sum(s * w for s, w in zip(found, weights, strict=True)) == pytest.approx(0.5 * sum(weights))
    assert found[1] < found[2] < found[0]
    equal = spread_sparsity([0.1, 0.9, 0.5], 0.5, weights=[7, 7, 7])
    assert equal == pytest.approx(spread_sparsity([0.1, 0.9, 0.5], 0.5))
