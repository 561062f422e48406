"""Arm against arm on the same items, and the arms that are worth their sparsity."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from anomia.measure.bootstrap import resample
from anomia.measure.comparisons import QUARTER, Pairs
from anomia.measure.contrasts import Point, frontier
from anomia.measure.figures import BetweenRow, Figure, FrontierRow, find
from anomia.measure.frame import MEAN, POOLED, Bools, both
from anomia.measure.quantities import Quantity, everywhere_all, minus
from anomia.measure.rates import Estimate

BASE = "base"


def between_rows(pairs: Mapping[str, pl.DataFrame]) -> Iterator[BetweenRow]:
    """Gap and dissociation of one arm − of another, for every two arms.

    pairs: each arm joined with base, by name, in the order of the same items. Arms that answered the same
    items share their draws.
    """
    answered = {arm: _answered(part) for arm, part in pairs.items()}
    by_items: dict[frozenset[str], list[tuple[str, str]]] = {}
    for one, other in itertools.combinations(pairs, 2):
        by_items.setdefault(answered[one] & answered[other], []).append((one, other))
    for items, couples in by_items.items():
        if items:
            yield from _couples(pairs, items, couples)


def frontier_rows(figures: Sequence[Figure], sparsity: Mapping[str, float]) -> list[FrontierRow]:
    """Accuracy over all items against measured sparsity, base first; empty where fewer than two arms were pruned.

    sparsity: share of zeros in the pruned matrices, by arm.
    """
    if len(sparsity) < 2:
        return []
    measured = {BASE: 0.0} | dict(sparsity)
    points: dict[str, tuple[Estimate, Estimate]] = {}
    for arm in measured:
        opened, chosen = (find(figures, arm, f"accuracy/{name}", POOLED) for name in ("open", "choice"))
        if opened is not None and chosen is not None:
            points[arm] = opened, chosen
    best = [
        set(frontier({arm: Point(1 - measured[arm], point[side].value) for arm, point in points.items()}))
        for side in (0, 1)
    ]
    return [
        FrontierRow(arm, measured[arm], opened, chosen, arm in best[0], arm in best[1])
        for arm, (opened, chosen) in points.items()
    ]


def _couples(
    pairs: Mapping[str, pl.DataFrame], items: frozenset[str], couples: Sequence[tuple[str, str]]
) -> Iterator[BetweenRow]:
    arms = dict.fromkeys(arm for couple in couples for arm in couple)
    parts = {arm: Pairs(pairs[arm].filter(_name(pairs[arm]).is_in(list(items)))) for arm in arms}
    gaps = {arm: _gap(part) for arm, part in parts.items()}
    rates = {arm: part.dissociation("choice") for arm, part in parts.items()}
    quantities: dict[str, Quantity] = {}
    meant: dict[str, tuple[str, str, str]] = {}
    for one, other in couples:
        for measure, of in (("gap/choice", gaps), ("dissociation/choice", rates)):
            key = str(len(quantities))
            quantities[key], meant[key] = minus(of[one], of[other]), (one, other, measure)
    first = next(iter(parts.values()))
    draws = resample(first.rows["language"].to_list(), first.passages)
    for key, found in everywhere_all(quantities, draws).items():
        for scope, estimate in {**found.by_language, POOLED: found.pooled, MEAN: found.mean}.items():
            yield BetweenRow(*meant[key], scope, estimate)


def _gap(part: Pairs) -> Quantity:
    return minus(part.normalized("open_correct", 0.0), part.normalized("choice_correct", QUARTER))


def _answered(part: pl.DataFrame) -> frozenset[str]:
    """Names of the items that base and the arm answered in open and in choice."""
    whole: Bools = (
        part.select(pl.all_horizontal(pl.col(both("open_correct", "choice_correct")).is_not_null()))
        .to_series()
        .to_numpy()
    )
    return frozenset(np.asarray(_name(part).to_numpy(), dtype=object)[whole])


def _name(part: pl.DataFrame) -> pl.Series:
    return part.select(pl.concat_str("dataset", "language", "item_id", separator="\0")).to_series()
