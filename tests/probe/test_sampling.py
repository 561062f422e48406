from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anomia.probe.sampling import Stream, attempt, draw, uniform
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


@pytest.mark.parametrize(("spread", "temperature"), [(1.0, 1.0), (0.0, 1.0), (4.0, 0.7)])
def test_several_attempts_at_once_draw_the_same(spread, temperature):
    """As GPUs draw; logits are rounded so that some tie."""
    generator = torch.Generator().manual_seed(8)
    logits = (torch.randn(3, 150, generator=generator) * spread * 4).round() / 4
    summary = summarize(logits, temperature)
    wanted = [row for row in range(3) for _ in range(300)]
    streams = [Stream(3, "item", n, 1) for n in range(len(wanted))]
    made = attempt(summary, wanted, streams, 0.6, at_once=True)
    drawn = torch.tensor(draw(summary, wanted, streams, 0.6))
    assert 0.8 < made.kept.float().mean() < 1
    assert torch.equal(made.tokens[made.kept], drawn[made.kept])
    missed = (~made.kept).nonzero()[:, 0].tolist()
    again = draw(summary, [wanted[n] for n in missed], [streams[n] for n in missed], 0.6, tried=made.tried)
    assert again == drawn[missed].tolist()


def test_rows_that_are_not_finite_end_at_once():
    logits = torch.tensor([[0.0, torch.nan, 1.0], [0.0, 1.0, 2.0]])
    for at_once in (False, True):
        made = attempt(
            summarize(logits), [0, 1], [Stream(1, "a", n, 0) for n in range(2)], 1.0, at_once=at_once
        )
        assert bool(made.kept[0])
    assert len(draw(summarize(logits), [0, 1], [Stream(1, "a", n, 0) for n in range(2)], 0.9)) == 2
