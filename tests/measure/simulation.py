"""Studies drawn from known truth, and how often each interval covers it.

Items of a passage depend on each other through a Dirichlet distribution over the passage's outcomes,
whose intraclass correlation is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomia.measure.bootstrap import bca_levels, resample, totals
from anomia.measure.intervals import (
    Range,
    choose,
    inside,
    join,
    possible_normalized,
    range_apart,
    ratio_widening,
)
from anomia.measure.paired import score_interval
from anomia.measure.quantities import Quantity, minus, net_share, normalized
from anomia.measure.rates import Clusters, Estimate, effective_items, wilson

FloatArray = NDArray[np.float64]
CHUNK = 250
# Fewer than a study's 10,000: the error of a bound's place is 0.003 and averages out over replications.
SIMULATION_DRAWS = 2_000


class Cell(NamedTuple):
    """One truth. discordance: share of items that change; falling: share of those that change for the worse."""

    n: int
    cluster_size: int
    correlation: float
    base: float
    discordance: float
    falling: float

    @property
    def lost(self) -> float:
        return self.discordance * self.falling

    @property
    def won(self) -> float:
        return self.discordance * (1 - self.falling)

    @property
    def possible(self) -> bool:
        return self.lost <= self.base + 1e-9 and self.won <= 1 - self.base + 1e-9

    @property
    def drop(self) -> float:
        return self.lost - self.won

    @property
    def promised(self) -> bool:
        """Whether 93 % coverage is promised."""
        return self.n >= 50 and self.n * self.discordance >= 10 - 1e-9


class Coverage(NamedTuple):
    """Share of replications whose interval covers the truth, of those in which the figure is given."""

    covered: float
    given: float


STRUCTURES = ((1, 0.0), (5, 0.0), (5, 0.2))
BASES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
DISCORDANCES = (0.01, 0.05, 0.1, 0.3)
FALLING = (1.0, 0.7, 0.3)
# What choice does while open is the cell: hardly moves, falls a little, falls and rises a lot.
CHOICES = ((0.9, 0.05, 0.7), (0.9, 0.1, 1.0), (0.6, 0.3, 0.6))


def grid(sizes: Iterable[int]) -> list[Cell]:
    """All possible truths of the stated grid."""
    cells = [
        Cell(n, *structure, base, discordance, falling)
        for n, structure, base, discordance, falling in itertools.product(
            sizes, STRUCTURES, BASES, DISCORDANCES, FALLING
        )
    ]
    return [cell for cell in cells if cell.possible]


def choice_beside(cell: Cell) -> Cell:
    """The truth of choice that goes with a cell of open; the three take turns."""
    turn = round(100 * cell.base + 10 * cell.falling + 100 * cell.discordance) % len(CHOICES)
    base, discordance, falling = CHOICES[turn]
    return cell._replace(base=base, discordance=discordance, falling=falling)


def draw_pairs(
    cell: Cell, replications: int, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Right or wrong of base and of the arm: two arrays [items, replications]."""
    chances = np.array([cell.base - cell.lost, cell.lost, cell.won, 1 - cell.base - cell.won]).clip(0)
    return draw_outcomes(chances, cell, replications, generator)


def draw_outcomes(
    chances: FloatArray, cell: Cell, replications: int, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    passages = -(-cell.n // cell.cluster_size)
    if cell.correlation:
        shape = chances * (1 - cell.correlation) / cell.correlation
        # A Dirichlet draw is gamma draws over their sum; an outcome that can't happen has no weight.
        weights = generator.gamma(np.maximum(shape, 1e-300), size=(passages, replications, 4)) * (shape > 0)
        weights /= weights.sum(axis=-1, keepdims=True)
        weights = np.repeat(weights, cell.cluster_size, axis=0)[: cell.n]
    else:
        weights = np.broadcast_to(chances, (cell.n, replications, 4))
    place = generator.random((cell.n, replications, 1))
    outcome = (place > weights.cumsum(axis=-1)[..., :3]).sum(axis=-1)
    return (outcome <= 1).astype(np.float64), ((outcome == 0) | (outcome == 2)).astype(np.float64)


def clusters(cell: Cell) -> Clusters:
    index = np.arange(cell.n) // cell.cluster_size
    return Clusters(index, int(index[-1]) + 1)


def worth(values: FloatArray, cell: Cell) -> FloatArray:
    """Effective items of each replication: [items, replications] → [replications]."""
    groups = clusters(cell)
    if cell.cluster_size == 1:
        return np.full(values.shape[1], float(cell.n))
    return np.array([effective_items(column, groups) for column in values.T])


def paired_bounds(base: FloatArray, arm: FloatArray, cell: Cell) -> tuple[FloatArray, FloatArray]:
    """Score intervals of the raw drop: [replications] each."""
    items = worth(base - arm, cell)
    lost, won = (base > arm).sum(axis=0), (arm > base).sum(axis=0)
    return score_interval(lost * items / cell.n, won * items / cell.n, items)


def rate_coverage(cell: Cell, replications: int, *, seed: int = 0) -> Coverage:
    base, _ = draw_pairs(cell, replications, np.random.default_rng(seed))
    bounds = np.array(
        [wilson(value, items) for value, items in zip(base.mean(axis=0), worth(base, cell), strict=True)]
    )
    covered = (bounds[:, 0] <= cell.base + 1e-12) & (cell.base <= bounds[:, 1] + 1e-12)
    return Coverage(float(covered.mean()), 1.0)


def paired_coverage(cell: Cell, replications: int, *, seed: int = 0) -> Coverage:
    base, arm = draw_pairs(cell, replications, np.random.default_rng(seed))
    low, high = paired_bounds(base, arm, cell)
    covered = (low <= cell.drop + 1e-9) & (cell.drop <= high + 1e-9)
    return Coverage(float(covered.mean()), 1.0)


def resampled_bounds(
    columns: FloatArray, quantity: Quantity, cell: Cell
) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """BCa of a quantity's value over columns [items, replications, C]: value, low, high, defined, given."""
    groups = clusters(cell)
    resampling = resample(["language"] * cell.n, groups.index, draws=SIMULATION_DRAWS)
    strata = [stratum.passages for stratum in resampling.strata]
    parts = []
    for start in range(0, columns.shape[1], CHUNK):
        sums = totals(resampling, columns[:, start : start + CHUNK])
        observed, drawn, without = (quantity.value(part)[..., 0, :] for part in sums)
        given = np.array([quantity.given(part) for part in sums.observed[0]])
        (interval,) = bca_levels(observed, drawn, without, strata, [0.95])
        parts.append((observed, interval.low, interval.high, interval.defined, given))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def normalized_columns(base: FloatArray, arm: FloatArray) -> FloatArray:
    return np.stack([base, arm, np.ones_like(base)], axis=-1)


def chosen_bounds(
    value: FloatArray,
    low: FloatArray,
    high: FloatArray,
    plain: tuple[FloatArray, FloatArray],
    possible: list[Range],
    events: list[FloatArray],
) -> tuple[FloatArray, FloatArray]:
    """The rules of `intervals.choose` and `intervals.inside` for each replication."""
    replications = zip(value, low, high, *plain, possible, *events, strict=True)
    chosen = [
        inside(
            *choose(below, above, Estimate(0.0, plain_below, plain_above, 0, 0), counts)[:2], middle, allowed
        )
        for middle, below, above, plain_below, plain_above, allowed, *counts in replications
    ]
    return tuple(np.array(chosen).T)  # type: ignore[return-value]


def effective_changes(changed: FloatArray, cell: Cell) -> FloatArray:
    return changed.mean(axis=0) * worth(changed, cell)


def plain_normalized(
    base: FloatArray, arm: FloatArray, cell: Cell, floor: float
) -> tuple[FloatArray, FloatArray]:
    low, high = paired_bounds(base, arm, cell)
    value, height = (base - arm).mean(axis=0), np.maximum(base.mean(axis=0) - floor, 1e-9)
    scale = ratio_widening(base, arm, floor)
    return (value - (value - low) * scale) / height, (value + (high - value) * scale) / height


class Side(NamedTuple):
    """What `everywhere.everywhere` gives for a normalized drop of each replication."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    given: NDArray[np.bool_]
    events: FloatArray
    possible: list[Range]


def normalized_side(
    base: FloatArray, arm: FloatArray, cell: Cell, floor: float, quantity: Quantity | None = None
) -> Side:
    """quantity: what takes the place of a normalized drop, of the same columns."""
    quantity = quantity or normalized([1.0], [1.0], floor=floor)
    value, low, high, defined, given = resampled_bounds(normalized_columns(base, arm), quantity, cell)
    events = effective_changes((base != arm).astype(np.float64), cell)
    plain = plain_normalized(base, arm, cell, floor)
    seen = zip(base.mean(axis=0), worth(base, cell), strict=True)
    possible = [possible_normalized(wilson(accuracy, items)[0], floor) for accuracy, items in seen]
    bounds = chosen_bounds(value, low, high, plain, possible, [np.where(defined, events, 0.0)])
    return Side(value, *bounds, given, events, possible)


def net_side(marked: FloatArray, after: FloatArray, cell: Cell) -> Side:
    """The net share of each replication. marked: the items that count. after: without those that fell, with those that rose."""
    none = np.zeros(1, dtype=bool)
    return normalized_side(marked, after, cell, 0.0, net_share(none, none, none))


def net_coverage(cell: Cell, replications: int, *, seed: int = 0) -> Coverage:
    """The net share's coverage: `base` of the cell is the share of items that count."""
    side = net_side(*draw_pairs(cell, replications, np.random.default_rng(seed)), cell)
    return _coverage(side.low, side.high, cell.drop / cell.base, side.given)


def normalized_coverage(cell: Cell, floor: float, replications: int, *, seed: int = 0) -> Coverage:
    base, arm = draw_pairs(cell, replications, np.random.default_rng(seed))
    side = normalized_side(base, arm, cell, floor)
    return _coverage(side.low, side.high, cell.drop / (cell.base - floor), side.given)


def gap_side(
    open_: tuple[FloatArray, FloatArray], choice: tuple[FloatArray, FloatArray], cell: Cell, floor: float
) -> tuple[Side, Side, Side]:
    """The drops of open and of choice, and the gap."""
    sides = normalized_side(*open_, cell, 0.0), normalized_side(*choice, cell, floor)
    quantity = minus(normalized([1.0], [1.0], floor=0.0), normalized([1.0], [1.0], floor=floor))
    columns = np.concatenate([normalized_columns(*open_), normalized_columns(*choice)], axis=-1)
    value, low, high, defined, given = resampled_bounds(columns, quantity, cell)
    joined = [
        join(Estimate(*one, 0, 0), Estimate(*other, 0, 0))[1:3]
        for one, other in zip(*(zip(*side[:3], strict=True) for side in sides), strict=True)
    ]
    events = [np.where(defined, side.events, 0.0) for side in sides]
    possible = [range_apart(*ranges) for ranges in zip(*(side.possible for side in sides), strict=True)]
    bounds = chosen_bounds(value, low, high, tuple(np.array(joined).T), possible, events)
    return *sides, Side(value, *bounds, given, np.minimum(*events), possible)


def gap_coverage(cell: Cell, choice: Cell, floor: float, replications: int, *, seed: int = 0) -> Coverage:
    """The gap's coverage; `cell` is open's truth, `choice` that of choice, independent of it."""
    generator = np.random.default_rng(seed)
    pairs = draw_pairs(cell, replications, generator), draw_pairs(choice, replications, generator)
    truth = cell.drop / cell.base - choice.drop / (choice.base - floor)
    gap = gap_side(*pairs, cell, floor)[2]
    return _coverage(gap.low, gap.high, truth, gap.given)


def _coverage(low: FloatArray, high: FloatArray, truth: float, given: NDArray[np.bool_]) -> Coverage:
    covered = (low <= truth + 1e-9) & (truth <= high + 1e-9)
    return Coverage(float(covered[given].mean()) if given.any() else float("nan"), float(given.mean()))
