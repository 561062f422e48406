import numpy as np
import pytest

from anomia.measure.bootstrap import resample
from anomia.measure.contrasts import (
    Point,
    directions,
    frontier,
    one_shot_recovery,
    rank_nearness,
)
from anomia.measure.everywhere import everywhere
from anomia.measure.rates import Estimate

N = 200
GENERATOR = np.random.default_rng(3)
DRAWS = resample(["a"] * N, draws=1000)


def flags(chance):
    return GENERATOR.random(N) < chance


def test_one_shot_gives_back_what_it_gives_back():
    base, arm_zero, arm_one = flags(0.6), flags(0.3), flags(0.55)
    found = everywhere(one_shot_recovery(base, arm_zero, base, arm_one), DRAWS).pooled
    assert found.value == pytest.approx(arm_one.mean() - arm_zero.mean())
    assert found.low > 0.05


def test_nearness_counts_marked_items_only():
    gold, control = np.full(N, 3.5), np.full(N, 500.0)
    gold[:50] = 400
    marked = np.arange(N) >= 40
    found = everywhere(rank_nearness(gold, control, marked), DRAWS).pooled
    assert found.value == pytest.approx(150 / 160)
    assert found.n == 160
    assert everywhere(rank_nearness(gold, gold, marked), DRAWS).pooled.value == 0


def test_frontier():
    arms = {
        "base": Point(10, 0.9),
        "w30": Point(7, 0.85),
        "m30": Point(7, 0.6),
        "w50": Point(5, 0.5),
        "bad": Point(8, 0.84),
        "w50 again": Point(5, 0.5),
    }
    assert frontier(arms) == ("w50", "w50 again", "w30", "base")
    assert frontier({}) == ()


def test_directions():
    falls, rises, unclear = (Estimate(v, v - 0.1, v + 0.1, 50, 50) for v in (0.3, -0.3, 0.05))
    assert directions([falls, falls]) == "agree"
    assert directions([rises, rises]) == "agree"
    assert directions([falls, rises, unclear]) == "differ"
    assert directions([falls, unclear]) == "undecided"
    assert directions([falls, None]) == "undecided"
