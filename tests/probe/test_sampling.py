from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anomia.probe.sampling import Stream, draw, uniform
from anomia.probe.vocabulary import summarize


def exact_nucleus(logits: torch.Tensor, top_p: float, temperature: float = 1.0) -> torch.Tensor:
    """The probabilities [V] that `transformers` would sample from."""
    warped = transformers.TopPLogitsWarper(top_p)(None, logits.double()[None] / temperature)
    return warped[0].softmax(-1)


def frequencies(logits: torch.Tensor, top_p: float, count: int, temperature: float = 1.0) -> np.ndarray:
    summary = summarize(logits[None], temperature)
    tokens = draw(summary, [0] * count, [Stream(1, "item", n, 0) for n in range(count)], top_p)
    return np.bincount(tokens, minlength=len(logits))


@pytest.mark.parametrize(
    ("size", "spread", "top_p", "temperature"),
    [
        (10, 1.0, 0.9, 1.0),
        (50, 2.0, 0.9, 1.0),
        (200, 3.0, 0.7, 1.0),
        (130, 0.5, 0.95, 1.7),
        (64, 1, 0.7, 0.6),
    ],
)
def test_samples_follow_the_exact_nucleus(size, spread, top_p, temperature):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(5)) * spread
    expected = exact_nucleus(logits, top_p, temperature).numpy()
    count = 20_000
    found = frequencies(logits, top_p, count, temperature)
    assert found[expected == 0].sum() == 0
    inside = expected > 0
    assert stats.chisquare(found[inside], expected[inside] / expected.sum() * count).pvalue > 1e-3


def test_a_nucleus_wider_than_thousands_of_tokens_is_exact_too():
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(6)) * 0.3
    expected = exact_nucleus(logits, 0.9).numpy()
    assert (expected > 0).sum() > 3000
    found = frequencies(logits, 0.9, 4000)
    assert found[expected == 0].sum() == 0
    folded = np.arange(5000) % 40  # so that every cell has counts enough
    cells = [np.bincount(folded, weights=values, minlength=40) for values in (found, expected * 4000)]
    assert stats.chisquare(*cells).pvalue > 1e-3


def test_of_tokens_that_tie_at_the_edge_the_higher_ones_stay():
    logits = torch.tensor([0.0, 0.0, 0.0, 0.0])
    assert frequencies(logits, 0.5, 400).tolist()[:2] == [0, 0]
    assert (exact_nucleus(logits, 0.5) > 0).tolist() == [False, False, True, True]


def test_a_dominant_token_is_the_whole_nucleus():
    assert frequencies(torch.tensor([9.0, 0.0, 0.0]), 0.9, 50).tolist() == [50, 0, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(), st.text(), st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))
def test_random_numbers_are_a_function_of_their_arguments(seed, item_id, sample, step, attempt):
    stream = Stream(seed, item_id, sample, step)
    assert uniform(stream, attempt) == uniform(stream, attempt)
    assert 0 <= uniform(stream, attempt) < 1
    others = [
        stream._replace(seed=seed + 1),
        stream._replace(item_id=item_id + "x"),
        stream._replace(sample=sample + 1),
        stream._replace(step=step + 1),
    ]
    values = {uniform(other, attempt) for other in [stream, *others]} | {uniform(stream, attempt + 1)}
    assert len(values) == 6


def test_random_numbers_are_uniform_along_every_argument():
    for vary in ("seed", "sample", "step"):
        base = Stream(42, "item", 3, 2)
        values = [uniform(base._replace(**{vary: n}), 0) for n in range(4000)]
        assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_draws_leave_the_global_generators_alone():
    state = torch.get_rng_state()
    frequencies(torch.randn(20, generator=torch.Generator().manual_seed(1)), 0.9, 10)
    assert torch.equal(state, torch.get_rng_state())
