"""Comparisons of arms on the same items, and the Pareto frontiers of accuracy against sparsity and size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from anomia.measure.bootstrap import resample
from anomia.measure.comparisons import Pairs
from anomia.measure.contrasts import Point, frontier
from anomia.measure.everywhere import everywhere_all
from anomia.measure.figures import BetweenRow, Figure, FrontierRow, find
from anomia.measure.frame import MEAN, POOLED, RECOGNITION, Bools, both, pooled_languages
from anomia.measure.measures import Measure, accuracy, dissociation, gap, net_dissociation, raw_gap
from anomia.measure.quantities import Quantity, minus
from anomia.measure.rates import Estimate
from anomia.probes import FORMATS

BASE = "base"


def between_rows(pairs: Mapping[str, pl.DataFrame]) -> Iterator[BetweenRow]:
    """Gap, raw gap, dissociation and net dissociation of one arm − those of another, for every pair of arms.

    pairs: each arm's rows joined with base's, by arm, with items in the same order. Pairs of arms with the same common
    items share their bootstrap draws.
    """
    answered = {arm: _answered(part) for arm, part in pairs.items()}
    by_items: dict[frozenset[str], list[tuple[str, str]]] = {}
    for one, other in itertools.combinations(pairs, 2):
        by_items.setdefault(answered[one] & answered[other], []).append((one, other))
    for items, couples in by_items.items():
        if items:
            yield from _couples(pairs, items, couples)


def frontier_rows(
    figures: Sequence[Figure],
    arms: Sequence[str],
    sparsity: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
) -> list[FrontierRow]:
    """Accuracy over all items against sparsity and size on disk; empty unless at least two arms have one of these.

    Arms that have not answered all of base's items are excluded.

    arms: without base, in the order of the rows. sparsity: share of zeros in the pruned matrices, by arm.
    sizes: bytes of the stored weights, by arm, including `base`.
    """
    bytes_of = sizes or {}
    zeros = {BASE: 0.0} | dict(sparsity)
    points: dict[str, tuple[Estimate, Estimate]] = {}
    for arm in (BASE, *arms):
        opened, chosen = (find(figures, arm, accuracy(name), POOLED) for name in FORMATS)
        if opened is None or chosen is None or (arm not in zeros and arm not in bytes_of):
            continue
        # An arm that answered fewer items than base can't be compared with arms that answered all.
        if arm == BASE or (BASE in points and opened.n == points[BASE][0].n):
            points[arm] = opened, chosen
    if len(points) < 3:
        return []
    by_sparsity = _best(points, {arm: 1 - zeros[arm] for arm in points if arm in zeros})
    by_size = _best(points, {arm: float(bytes_of[arm]) for arm in points if arm in bytes_of})
    return [
        FrontierRow(
            arm,
            zeros.get(arm),
            bytes_of.get(arm),
            opened,
            chosen,
            *(arm in best if arm in zeros else None for best in by_sparsity),
            *(arm in best if arm in bytes_of else None for best in by_size),
        )
        for arm, (opened, chosen) in points.items()
    ]


def _best(
    points: Mapping[str, tuple[Estimate, Estimate]], costs: Mapping[str, float]
) -> tuple[frozenset[str], frozenset[str]]:
    """The arms that no other arm beats at its cost, in open and in choice."""
    opened, chosen = (
        frozenset(frontier({arm: Point(cost, points[arm][side].value) for arm, cost in costs.items()}))
        for side in (0, 1)
    )
    return opened, chosen


def _couples(
    pairs: Mapping[str, pl.DataFrame], items: frozenset[str], couples: Sequence[tuple[str, str]]
) -> Iterator[BetweenRow]:
    arms = dict.fromkeys(arm for couple in couples for arm in couple)
    parts = {arm: Pairs(pairs[arm].filter(_name(pairs[arm]).is_in(list(items)))) for arm in arms}
    gaps = {arm: _gap(part) for arm, part in parts.items()}
    raw_gaps = {
        arm: minus(part.drop("open_correct"), part.drop("choice_correct")) for arm, part in parts.items()
    }
    standard = RECOGNITION["choice"]
    rates = {arm: part.dissociation(standard) for arm, part in parts.items()}
    nets = {arm: part.net_dissociation(standard) for arm, part in parts.items()}
    quantities: dict[str, Quantity] = {}
    meant: dict[str, tuple[str, str, Measure]] = {}
    for one, other in couples:
        for measure, of in (
            (gap("choice"), gaps),
            (raw_gap("choice"), raw_gaps),
            (dissociation("choice"), rates),
            (net_dissociation("choice"), nets),
        ):
            key = str(len(quantities))
            quantities[key], meant[key] = minus(of[one], of[other]), (one, other, measure)
    first = next(iter(parts.values()))
    draws = resample(first.rows["language"].to_list(), first.passages)
    for key, found in everywhere_all(quantities, draws, pooled=pooled_languages(first.rows)).items():
        for scope, estimate in {**found.by_language, POOLED: found.pooled}.items():
            yield BetweenRow(*meant[key], scope, estimate)
        yield BetweenRow(*meant[key], MEAN, found.mean, found.excluded)


def _gap(part: Pairs) -> Quantity:
    return minus(part.normalized("open_correct"), part.normalized("choice_correct", "choice_floor"))


def _answered(part: pl.DataFrame) -> frozenset[str]:
    """Names of the items that base and the arm both answered in open and in choice."""
    whole: Bools = (
        part.select(pl.all_horizontal(pl.col(both("open_correct", "choice_correct")).is_not_null()))
        .to_series()
        .to_numpy()
    )
    return frozenset(np.asarray(_name(part).to_numpy(), dtype=object)[whole])


def _name(part: pl.DataFrame) -> pl.Series:
    return part.select(pl.concat_str("dataset", "language", "item_id", separator="\0")).to_series()
