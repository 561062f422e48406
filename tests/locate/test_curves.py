"""Shares of weights that bring half back, differences of orders, and rank agreement: by hand, and with intervals that hold."""

from __future__ import annotations

import numpy as np
import pytest

from anomia.locate.curves import (
    Answered,
    Deciding,
    Series,
    crossing,
    half_difference,
    half_share,
    mean_difference,
    rank_agreement,
)

SHARES = np.array([0.0, 0.1, 0.5, 1.0])


def test_half_comes_back_at_a_share_that_was_tried_and_not_between_two() -> None:
    curves = [
        [0.0, 0.5, 0.6, 1.0],  # reached at a point
        [0.0, 0.25, 0.75, 1.0],  # between 0.1 and 0.5
        [0.0, 0.0, 0.0, 0.4],  # never
        [0.5, 0.6, 0.7, 1.0],  # from the start
        [0.0, 0.6, 0.2, 1.0],  # the first time counts
    ]
    assert crossing(SHARES, curves).tolist() == [0.1, 0.5, 1.0, 0.0, 0.1]
    assert float(crossing(SHARES, curves[1])) == 0.5


def answered(thresholds: np.ndarray, shares: np.ndarray = SHARES) -> Answered:
    """Items that are right from their own share of weights on."""
    return Answered((Series(shares, (shares[None] >= thresholds[:, None]).astype(np.float64)),), shares)


def test_half_share_is_that_of_the_mean_curve() -> None:
    thresholds = np.array([0.1] * 6 + [1.0] * 4)
    found = half_share(Deciding(["english"] * 10, range(10)), answered(thresholds))
    assert found.value == 0.1
    assert found.low <= found.value <= found.high
    assert (found.n, found.clusters, found.checked) == (10, 10, False)


def test_bounds_are_shares_that_were_tried() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        thresholds = generator.choice(SHARES[1:], 14)
        items = Deciding(["english"] * 14, np.repeat(np.arange(7), 2))
        found = half_share(items, answered(thresholds))
        assert {found.low, found.value, found.high} <= set(SHARES.tolist())
        other = half_difference(items, answered(thresholds), answered(generator.permutation(thresholds)))
        steps = (SHARES[:, None] - SHARES[None]).ravel()
        assert all(np.isclose(steps, each).any() for each in (other.low, other.value, other.high))


def test_one_lucky_draw_does_not_make_random_orders_good() -> None:
    """Half of the draws brought the answers back, which counted as half of the answers."""
    items = Deciding(["english"] * 12, range(12))
    lucky, others = answered(np.full(12, 0.1)), answered(np.full(12, 1.0))
    draws = Answered(lucky.series + others.series, SHARES)
    assert half_share(items, draws).value == pytest.approx(0.55)
    difference = half_difference(items, lucky, draws)
    assert difference.low == pytest.approx(0.45)
    assert draws.right[0].tolist() == [0.0, 0.5, 0.5, 1.0]


def test_the_mean_difference_is_over_the_given_budgets() -> None:
    thresholds = np.array([0.1] * 30 + [0.5] * 10)
    items = Deciding(["english"] * 40, range(40))
    one, other = answered(thresholds), answered(np.full(40, 1.0))
    assert mean_difference(items, one, other).value == pytest.approx((0.75 + 1) / 2)
    assert mean_difference(items, one, other, [0.5]).value == pytest.approx(1.0)


def test_differences_are_paired() -> None:
    """One order is better on every item: its advantage is certain, whatever the items."""
    thresholds = np.array([0.1] * 30 + [0.5] * 10)
    items = Deciding(["english"] * 40, np.repeat(np.arange(20), 2))
    one, other = answered(thresholds), answered(np.minimum(thresholds * 5, 1.0))
    difference = half_difference(items, one, other)
    assert difference.value > 0
    assert difference.low > 0
    assert half_difference(items, other, one).high < 0
    assert mean_difference(items, one, other).value == pytest.approx((30 / 40 + 0.25) / 2)
    same = half_difference(items, one, one)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)


def test_the_interval_of_the_half_share_covers_the_truth() -> None:
    """Items with uniform thresholds, two on each passage: the curve is the diagonal, half comes back at one half."""
    shares = np.linspace(0, 1, 11)
    hits = 0
    for seed in range(60):
        thresholds = np.random.default_rng(seed).uniform(0, 1, 60)
        found = half_share(
            Deciding(["english"] * 60, np.repeat(np.arange(30), 2)), answered(thresholds, shares)
        )
        hits += found.low <= 0.5 <= found.high
    assert hits >= 52  # of 60 at 95 %, one in ten thousand is lower


def test_rank_agreement_of_signal_and_of_noise() -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=50)
    signal = truth + 0.5 * generator.normal(size=(40, 50))
    noise = generator.normal(size=(40, 50))
    passages = np.repeat(np.arange(20), 2)
    strong, weak = rank_agreement(signal, passages), rank_agreement(noise, passages)
    assert strong is not None
    assert weak is not None
    assert strong.low > 0.8
    assert weak.low < 0 < weak.high
    assert rank_agreement(signal[:6], passages[:6]) is None
