import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from anomia.errors import DataError
from anomia.measure.quantiles import quantile
from anomia.measure.ranks import mid_ranks, summarize_ranks
from anomia.measure.rates import rate


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.data())
def test_mid_ranks_are_scipys_average_ranks(logits, data):
    logits = np.array(logits)
    token = data.draw(st.integers(0, len(logits) - 1))
    rank = 1 + (logits > logits[token]).sum()
    ties = (logits == logits[token]).sum() - 1
    assert mid_ranks([rank], [ties])[0] == rankdata(-logits, method="average")[token]


def test_summary_takes_mid_ranks_into_the_median():
    summary = summarize_ranks([1, 4, 200], [0, 3, 0], vocabulary=1000)
    assert summary is not None
    assert summary.median == 5.5
    assert summary.vocabulary_share == 0.0055
    assert summary.within_10 == pytest.approx(2 / 3)
    assert summary.within_100 == pytest.approx(2 / 3)
    assert summary.tied == 1
    assert summarize_ranks([], [], vocabulary=10) is None


def test_impossible_ranks_are_refused():
    with pytest.raises(DataError, match="starts at 1"):
        mid_ranks([0], [0])
    with pytest.raises(DataError, match="shape"):
        mid_ranks([1, 2], [0])


def test_ranks_beyond_the_vocabulary_have_no_share_of_it():
    summary = summarize_ranks([50, 101], [0, 0], vocabulary=100)
    assert (summary.median, summary.vocabulary_share) == (75.5, None)
    assert summarize_ranks([50, 100], [0, 0], vocabulary=100).vocabulary_share == 0.75


def test_figures_of_ranks_have_intervals_over_passages():
    ranks, passages = np.arange(1, 61), np.arange(60) // 4
    alone, shared = (summarize_ranks(ranks, np.zeros(60), ids, vocabulary=100) for ids in (None, passages))
    assert alone.median_interval == quantile(ranks)
    assert alone.within_10_interval == rate(ranks <= 10)
    assert alone.within_100_interval.value == alone.within_100 == 1
    # Neighbours share a passage and are alike, so that the same items say less.
    assert shared.median_interval.low < alone.median_interval.low
    assert shared.within_10_interval.high > alone.within_10_interval.high
    assert summarize_ranks([1, 2], [0, 0], vocabulary=100).median_interval is None
