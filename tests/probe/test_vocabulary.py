from __future__ import annotations

import pytest
import torch

from anomia.probe import vocabulary


@pytest.fixture(params=[(5, 83, torch.float32), (3, 64, torch.float32), (40, 50257, torch.bfloat16)], ids=str)
def logits(request):
    rows, size, dtype = request.param
    return (torch.randn(rows, size, generator=torch.Generator().manual_seed(2)) * 4).to(dtype)


def test_normalizer_is_logsumexp_in_float32(logits):
    summary = vocabulary.summarize(logits)
    assert summary.finite.all()
    assert torch.allclose(summary.log_normalizer, logits.float().logsumexp(-1), atol=1e-5)


def test_argmax_takes_the_first_of_equals(logits):
    logits[0, [7, 70 % logits.shape[1], 40]] = 99.0
    assert torch.equal(vocabulary.argmax(vocabulary.summarize(logits)), logits.argmax(-1))


@pytest.mark.parametrize("count", [1, 10, 64])
def test_the_likeliest_are_those_of_a_full_selection(logits, count):
    summary = vocabulary.summarize(logits)
    values, tokens = vocabulary.likeliest(summary, torch.arange(len(logits)), count)
    assert torch.equal(values, logits.float().topk(count).values)
    assert torch.equal(logits.gather(1, tokens).float(), values)
    assert all(len(set(row)) == count for row in tokens.tolist())


def test_the_given_logits_are_not_changed(logits):
    before = logits.clone()
    summary = vocabulary.summarize(logits)
    vocabulary.likeliest(summary, torch.arange(len(logits)), 5)
    assert torch.equal(before, logits)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_logit_is_noticed_wherever_it_stands(logits, bad):
    for column in (0, logits.shape[1] - 1):
        broken = logits.clone()
        broken[1, column] = bad
        assert vocabulary.summarize(broken).finite.tolist() == [n != 1 for n in range(len(logits))]


def test_ties_are_counted_and_not_ranked():
    [first, second] = vocabulary.place(
        vocabulary.summarize(torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0]])), [0, 1]
    )
    assert first[:2] == (3, 2)
    assert second == (1, 0, pytest.approx(-0.6, abs=0.1), 0.0)
    assert first.margin == 2.0


def test_distribution_and_tail_sum_to_one():
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(3))
    found, asked = vocabulary.distribution(vocabulary.summarize(logits), 20, [5, 7])
    log_probs = logits[0].log_softmax(-1)
    assert found.tokens == tuple(log_probs.topk(20).indices.tolist())
    assert sum(torch.tensor(found.log_probs).exp()) + found.tail_mass == pytest.approx(1, abs=1e-6)
    assert asked == pytest.approx(log_probs[[5, 7]].tolist(), abs=1e-6)
