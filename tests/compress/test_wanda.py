from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomia.compress.methods.magnitude import magnitude_cut
from anomia.compress.methods.masks import lowest_mask
from anomia.compress.methods.wanda import wanda_cut
from anomia.compress.steps import Pattern


def loop_mask(scores: np.ndarray, count: int) -> np.ndarray:
    """Row by row, one weight at a time: the lowest score goes, ties to the lowest index."""
    mask = np.zeros(scores.shape, dtype=bool)
    for row in range(scores.shape[0]):
        for _ in range(count):
            best = -1
            for column in range(scores.shape[1]):
                if not mask[row, column] and (best < 0 or scores[row, column] < scores[row, best]):
                    best = column
            mask[row, best] = True
    return mask


def wanda_loop(weight: torch.Tensor, inputs: torch.Tensor, sparsity: float) -> np.ndarray:
    w = weight.float().numpy()
    x = inputs.numpy()
    scores = np.zeros(w.shape, dtype=np.float32)
    for row in range(w.shape[0]):
        for column in range(w.shape[1]):
            total = np.float32(0)
            for value in x[:, column]:
                total = np.float32(total + value * value)
            scores[row, column] = np.abs(w[row, column]) * np.sqrt(total)
    return loop_mask(scores, int(w.shape[1] * sparsity))


@pytest.mark.parametrize("sparsity", [0.1, 0.29, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_equal_an_independent_loop_bit_for_bit(sparsity: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    # Whole numbers make the sums of squares exact, so that no order of summation can matter.
    inputs = torch.randint(-9, 10, (40, 33), generator=generator).float()
    weight = torch.randn(17, 33, generator=generator).to(dtype)
    norms = (inputs.double() ** 2).sum(0).float().sqrt()
    mask = wanda_cut(weight, norms, sparsity).mask
    assert np.array_equal(mask.numpy(), wanda_loop(weight, inputs, sparsity))
    assert mask.sum(dim=1).tolist() == [int(33 * sparsity)] * 17


def test_ties_go_to_the_lowest_index() -> None:
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0, 1.0]])
    assert lowest_mask(scores, 3).tolist() == [[False, True, True, False, True, False]]
    equal = torch.ones(2, 5)
    assert wanda_cut(equal, torch.ones(5), 0.5).mask.tolist() == [[True, True, False, False, False]] * 2


@settings(deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda columns: st.tuples(
            st.lists(
                st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0]), min_size=columns, max_size=columns),
                min_size=1,
                max_size=4,
            ),
            st.integers(0, columns),
        )
    )
)
def test_selection_is_the_head_of_a_stable_sort(case: tuple[list[list[float]], int]) -> None:
    rows, count = case
    scores = torch.tensor(rows)
    order = scores.sort(dim=1, stable=True).indices[:, :count]
    expected = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
    assert torch.equal(lowest_mask(scores, count), expected)


def test_a_dead_input_goes_first_and_a_strong_one_saves_small_weights() -> None:
    weight = torch.tensor([[9.0, 0.1, 1.0, 1.0]])
    mask = wanda_cut(weight, torch.tensor([0.0, 100.0, 1.0, 2.0]), 0.5).mask
    assert mask.tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(4, 8), Pattern(1, 4), Pattern(3, 5)])
def test_patterns_keep_n_of_every_m(pattern: Pattern) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(6, 40, generator=generator)
    norms = torch.rand(40, generator=generator)
    for mask in (wanda_cut(weight, norms, pattern).mask, magnitude_cut(weight, pattern).mask):
        kept = (~mask).reshape(6, -1, pattern.group).sum(dim=2)
        assert (kept == pattern.keep).all()
    scores = (weight.abs() * norms).numpy().reshape(-1, pattern.group)
    expected = loop_mask(scores, pattern.group - pattern.keep)
    assert np.array_equal(wanda_cut(weight, norms, pattern).mask.numpy().reshape(-1, pattern.group), expected)


def test_magnitude_compares_the_whole_matrix() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [-0.1, 0.2, 9.0]])
    assert magnitude_cut(weight, 0.5).mask.tolist() == [[True, False, False], [True, True, False]]
    assert int(magnitude_cut(torch.ones(3, 5), 0.4).mask.sum()) == int(15 * 0.4)
