import numpy as np
import pytest
from scipy import stats

from anomia.errors import DataError
from anomia.measure.bootstrap import bca_levels, resample, totals


def test_totals_are_sums_and_each_draw_takes_as_many_passages_as_there_are():
    languages = ["a"] * 6 + ["b"] * 4
    passages = ["p0", "p0", "p1", "p2", "p2", "p2", "q0", "q1", "q1", "q2"]
    values = np.arange(10.0)
    resampling = resample(languages, passages, draws=500, seed=1)
    assert resampling.languages == ("a", "b")
    assert [stratum.weights.sum(axis=1).tolist() for stratum in resampling.strata] == [[3.0] * 500] * 2
    sums = totals(resampling, np.stack([values, np.ones(10)], axis=-1))
    assert sums.observed.tolist() == [[15, 6], [30, 4]]
    # Leaving p2 out of a changes a alone.
    assert sums.without[2].tolist() == [[3, 3], [30, 4]]
    by_hand = resampling.strata[0].weights[0] @ np.array([1.0, 2.0, 12.0])
    assert sums.drawn[0, 0, 0] == by_hand


def test_a_parallel_passage_is_drawn_in_all_languages_at_once():
    languages = np.repeat(["de", "en", "tr"], 30)
    passages = np.tile(np.arange(30), 3)
    resampling = resample(languages, passages, draws=200)
    assert len(resampling.strata) == 1
    drawn = totals(resampling, np.tile(np.arange(30.0), 3)[:, None]).drawn
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 0] == drawn[:, 2]).all()
    apart = resample(languages, [f"{a}{b}" for a, b in zip(languages, passages, strict=True)], draws=200)
    assert len(apart.strata) == 3


def test_languages_that_share_only_some_passages_are_one_stratum():
    resampling = resample(["a", "a", "b", "b", "c"], ["p", "q", "q", "r", "s"], draws=10)
    assert sorted(len(stratum.passages) for stratum in resampling.strata) == [1, 3]


def bca(*arguments):
    """The bounds at the level of the program's intervals."""
    (interval,) = bca_levels(*arguments, [0.95])
    return interval


def test_the_same_seed_gives_the_same_draws():
    one, other, third = (resample(["a"] * 20, draws=50, seed=seed) for seed in (3, 3, 4))
    assert (one.strata[0].weights == other.strata[0].weights).all()
    assert (one.strata[0].weights != third.strata[0].weights).any()


@pytest.mark.parametrize("skewed", [False, True])
def test_bca_agrees_with_scipy(skewed):
    generator = np.random.default_rng(5)
    values = generator.exponential(size=400) if skewed else generator.normal(size=400)
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    resampling = resample(["a"] * 400, draws=20_000, seed=1)
    sums = totals(resampling, np.stack([values, np.ones(400)], axis=-1))
    means = [(part[..., 0] / part[..., 1]) for part in sums]
    ours = bca(*means, [np.arange(400)])
    width = theirs.high - theirs.low
    assert (ours.low[0], ours.high[0]) == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    assert ours.defined[0]


def test_bca_leans_to_the_long_tail_as_scipys_does():
    values = np.random.default_rng(6).exponential(size=60)
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    sums = totals(resample(["a"] * 60, draws=20_000), np.stack([values, np.ones(60)], axis=-1))
    ours = bca(*[part[..., 0] / part[..., 1] for part in sums], [np.arange(60)])
    mean = values.mean()
    lean = (theirs.high - mean) / (mean - theirs.low)
    assert lean > 1.25
    assert (ours.high[0] - mean) / (mean - ours.low[0]) == pytest.approx(lean, rel=0.06)


def test_few_passages_widen_the_interval_to_students():
    values = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    resampling = resample(["a"] * 6, draws=20_000)
    sums = totals(resampling, np.stack([values, np.ones(6)], axis=-1))
    ours = bca(*[part[..., 0] / part[..., 1] for part in sums], [np.arange(6)])
    student = stats.t.interval(0.95, 5, loc=2.5, scale=stats.sem(values))
    assert ours.high[0] - ours.low[0] == pytest.approx(student[1] - student[0], rel=0.12)


def test_nothing_varies_is_said():
    resampling = resample(["a"] * 20, draws=100)
    sums = totals(resampling, np.ones((20, 2)))
    assert not bca(*[part[..., 0] / part[..., 1] for part in sums], [np.arange(20)]).defined[0]


def test_undefined_draws_are_left_out_and_many_of_them_leave_it_undefined():
    observed, without = np.array([0.5]), np.linspace(0.4, 0.6, 50)[:, None]
    drawn = np.random.default_rng(0).normal(0.5, 0.1, size=(1000, 1))
    drawn[:5] = np.nan
    few = bca(observed, drawn, without, [np.arange(50)])
    assert few.defined[0]
    assert 0.2 < few.low[0] < 0.4 < 0.6 < few.high[0] < 0.8
    drawn[:50] = np.nan
    assert not bca(observed, drawn, without, [np.arange(50)]).defined[0]


def test_no_items():
    with pytest.raises(DataError, match="no items"):
        resample([])
