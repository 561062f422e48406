from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomia.errors import DataError
from anomia.measure.confidence_sequence import confidence_sequence, mixture_bounds, until_width
from anomia.measure.rates import wilson

bounds = cache(mixture_bounds)


@given(st.integers(1, 300), st.data())
def test_it_holds_the_value_and_is_wider_than_one_look_needs(n, data):
    hits = data.draw(st.integers(0, n))
    low, high = mixture_bounds(hits, n)
    alone = wilson(hits / n, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert high - low > alone[1] - alone[0] - 1e-9
    mirrored = mixture_bounds(n - hits, n)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-9)


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.75])
def test_looking_after_every_item_misses_the_truth_in_at_most_one_of_twenty_studies(truth):
    """Wilson's interval, looked at as often, misses it in a third of them."""
    studies = np.random.default_rng(0).random((1000, 200)) < truth
    missed = wilson_missed = 0
    for flags in studies:
        hits = flags.cumsum()
        looks = [(int(hits[n - 1]), n) for n in range(5, 201)]
        missed += any(not low <= truth <= high for low, high in (bounds(*look) for look in looks))
        wilson_missed += any(
            not low <= truth <= high for low, high in (wilson(h / n, n) for h, n in looks[::4])
        )
    assert missed / 1000 <= 0.05
    assert wilson_missed / 1000 > 0.12


def test_stopping_at_a_width_keeps_its_promise_with_passages():
    generator = np.random.default_rng(1)
    missed = 0
    for _ in range(200):
        chances = np.repeat(generator.beta(2.8, 1.2, size=120), 3)  # intraclass correlation 0.2, mean 0.7
        flags, passages = generator.random(360) < chances, np.repeat(np.arange(120), 3)
        for taken in range(15, 361, 15):
            stop = until_width(flags[:taken], passages[:taken], width=0.3, items_left=360 - taken)
            if stop.stop:
                break
        missed += not stop.estimate.low <= 0.7 <= stop.estimate.high
    assert missed / 200 <= 0.05


def test_why_it_stops():
    flags = np.tile([True, True, False], 100)
    narrow = until_width(flags, width=0.2, items_left=50)
    assert narrow.stop
    assert "wide" in narrow.reason
    wide = until_width(flags[:30], width=0.2, items_left=50)
    assert not wide.stop
    used_up = until_width(flags[:30], width=0.2, items_left=0)
    assert used_up.stop
    assert "used up" in used_up.reason
    nothing = until_width([], width=0.2, items_left=0)
    assert nothing.stop
    assert nothing.estimate is None
    assert not until_width([], width=0.2, items_left=5).stop
    with pytest.raises(DataError, match="width"):
        until_width(flags, width=0, items_left=5)


def test_passages_count_once():
    flags = [True] * 6 + [False] * 2
    estimate = confidence_sequence(flags, ["p"] * 6 + ["q", "r"])
    assert estimate.value == pytest.approx(1 / 3)
    assert (estimate.n, estimate.clusters) == (8, 3)
    with pytest.raises(DataError, match="0 to 1"):
        confidence_sequence([2.0])
