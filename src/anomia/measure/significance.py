"""Tests on paired items, and the correction for multiple testing.

Sources: McNemar 1947 in its exact form; Fisher's randomization test with signs flipped by passage;
Holm 1979. All tests are exact; none uses random draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from anomia.errors import DataError
from anomia.measure.rates import cluster, right_or_wrong

Alternative = Literal["two-sided", "greater"]


class PairedTest(NamedTuple):
    """A test on pairs, and the number of its units (items or passages)."""

    p_value: float
    changed: int
    """Units (items or passages) that changed, on which the test rests."""
    units: int
    method: Literal["exact McNemar", "sign flip over passages"]


class Holm(NamedTuple):
    """Adjusted p-values by name, and the family over which they were adjusted."""

    family: str
    p_values: dict[str, float]


def mcnemar(base: ArrayLike, arm: ArrayLike) -> PairedTest:
    """Exact two-sided McNemar test that base and arm are right equally often: [items] each."""
    first, second = right_or_wrong(base), right_or_wrong(arm)
    if first.shape != second.shape:
        raise DataError(
            f"paired items must match: {first.shape} and {second.shape}; join the records by item"
        )
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = min(1.0, 2 * float(stats.binom.cdf(min(lost, won), lost + won, 0.5)))
    return PairedTest(p_value, lost + won, len(first), "exact McNemar")


def sign_flip(
    differences: ArrayLike, passages: ArrayLike | None = None, *, alternative: Alternative = "two-sided"
) -> PairedTest:
    """Exact test that whole-number differences are symmetric about 0, with signs flipped by passage.

    differences: what each item lost, whole numbers: [items]. The distribution of the sum over all
    2^passages sign patterns is computed by convolution. With one item per passage and differences of −1, 0
    and 1, it is McNemar's test.
    """
    numbers = np.asarray(differences, dtype=np.float64)
    if not np.array_equal(numbers, np.round(numbers)):
        raise DataError("sign_flip needs whole numbers: give right or wrong, not shares")
    groups = cluster(passages, len(numbers))
    sums = np.bincount(groups.index, weights=numbers, minlength=groups.count).astype(np.int64)
    steps = np.abs(sums[sums != 0])
    reach = int(steps.sum())
    chances = np.zeros(2 * reach + 1)  # [−reach … reach]
    chances[reach] = 1.0
    for step in steps:
        # No mass falls off the ends, which only all steps together can reach.
        flipped = np.zeros_like(chances)
        flipped[step:] += chances[:-step]
        flipped[:-step] += chances[step:]
        chances = flipped / 2
    observed = int(sums.sum())
    if alternative == "greater":
        p_value = chances[reach + observed :].sum()
    else:
        p_value = chances[np.abs(np.arange(-reach, reach + 1)) >= abs(observed)].sum()
    return PairedTest(min(1.0, float(p_value)), len(steps), groups.count, "sign flip over passages")


def paired_test(base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None = None) -> PairedTest:
    """Whether base and arm differ: McNemar's test if each item has its own passage, else a sign flip: [items] each."""
    first, second = right_or_wrong(base), right_or_wrong(arm)
    if passages is None or cluster(passages, len(first)).count == len(first):
        return mcnemar(first, second)
    return sign_flip(first.astype(np.int64) - second, passages)


def open_lost_more(
    base_open: ArrayLike,
    arm_open: ArrayLike,
    base_choice: ArrayLike,
    arm_choice: ArrayLike,
    passages: ArrayLike | None = None,
) -> PairedTest:
    """One-sided test that open lost more items than choice did, in raw points, paired by item: [items] each.

    Exact if base and arm are exchangeable, that is, under the hypothesis that compression did nothing.
    Whether open lost a larger share of *what it had* is for the interval of the gap to decide.
    """
    answers = (base_open, arm_open, base_choice, arm_choice)
    columns = [right_or_wrong(column).astype(np.int64) for column in answers]
    excess: NDArray[np.int64] = (columns[0] - columns[1]) - (columns[2] - columns[3])
    return sign_flip(excess, passages, alternative="greater")


def holm(p_values: Mapping[str, float], *, family: str) -> Holm:
    """Holm's adjustment. family: names the tests that were adjusted together, for the table.

    >>> holm({"a": 0.01, "b": 0.04}, family="languages of arm w50, open").p_values
    {'a': 0.02, 'b': 0.04}
    """
    adjusted: dict[str, float] = {}
    running = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = running
    return Holm(family, {name: adjusted[name] for name in p_values})
