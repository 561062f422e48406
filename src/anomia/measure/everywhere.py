"""Quantities with their intervals in every language, pooled, and as a mean over languages."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.bootstrap import FloatArray, Resampling, bca_levels, totals
from anomia.measure.intervals import Range, choose, inside, join, mean_of, range_apart
from anomia.measure.quantities import Mask, Quantity
from anomia.measure.rates import (
    CHECKED_EVENTS,
    CHECKED_ITEMS,
    Clusters,
    Estimate,
    cluster,
    effective_items,
)

# The type of quantities' names: text, or measures.
Name = TypeVar("Name", bound=str)


class Everywhere(NamedTuple):
    """One quantity by language, pooled over the items of several languages, and as a mean over those languages.

    excluded: languages that the mean excludes, because the quantity is not given there or they are not pooled.
    """

    by_language: dict[str, Estimate | None]
    pooled: Estimate | None
    mean: Estimate | None
    excluded: tuple[str, ...]


def everywhere(
    quantity: Quantity,
    resampling: Resampling,
    *,
    level: float = 0.95,
    pooled: Collection[str] | None = None,
) -> Everywhere:
    """A quantity with its interval in each language, pooled, and as a mean over languages."""
    return everywhere_all({"": quantity}, resampling, level=level, pooled=pooled)[""]


def everywhere_all(
    quantities: Mapping[Name, Quantity],
    resampling: Resampling,
    *,
    level: float = 0.95,
    pooled: Collection[str] | None = None,
) -> dict[Name, Everywhere]:
    """Many quantities over the same items in one pass over the draws, which is most of the work.

    pooled: the languages that the pooled figures and the means cover; None for all. The other languages
    only get their own figures.
    """
    return everywhere_levels(quantities, resampling, [level], pooled=pooled)[level]


def everywhere_levels(
    quantities: Mapping[Name, Quantity],
    resampling: Resampling,
    levels: Collection[float],
    *,
    pooled: Collection[str] | None = None,
) -> dict[float, dict[Name, Everywhere]]:
    """`everywhere_all` at several confidence levels: the draws are made, summed and sorted once.

    An interval at a higher level contains those at lower levels.
    """
    items = len(resampling.language)
    for name, quantity in quantities.items():
        if len(quantity.columns) != items:
            raise DataError(
                f"{name or 'the quantity'} has {len(quantity.columns)} items, but {items} were resampled: "
                "take the same items in both"
            )
    wanted = list(dict.fromkeys(levels))
    if not quantities:
        return {level: {} for level in wanted}
    languages = np.array([pooled is None or name in pooled for name in resampling.languages])
    nodes = _nodes(quantities.values())
    figures = _figures(nodes, resampling, languages)
    scopes = [_over(resampling, [number]) for number in range(len(resampling.languages))]
    scopes.append(_over(resampling, np.flatnonzero(languages)))
    estimates = [_estimates(nodes, figures, place, scope, wanted) for place, scope in enumerate(scopes)]
    means = _means(quantities, figures, estimates, resampling, languages, wanted)
    found: dict[float, dict[Name, Everywhere]] = {level: {} for level in wanted}
    for level, (name, quantity) in itertools.product(wanted, quantities.items()):
        places = [
            None if placed is None else _marked(quantity, placed.estimate, scope)
            for placed, scope in zip(
                (by_node[level].get(id(quantity)) for by_node in estimates), scopes, strict=True
            )
        ]
        by_language = dict(zip(resampling.languages, places[:-1], strict=True))
        excluded = tuple(
            language
            for language, is_pooled in zip(resampling.languages, languages, strict=True)
            if by_language[language] is None or not is_pooled
        )
        found[level][name] = Everywhere(by_language, places[-1], means[level].get(name), excluded)
    return found


class _Figures(NamedTuple):
    """A quantity in each of L languages and, last, pooled: L + 1 places.

    observed, given: [L + 1]. drawn: [draws, L + 1]. without: with one passage left out at a time: [passages, L + 1].
    """

    observed: FloatArray
    drawn: FloatArray
    without: FloatArray
    given: Mask


class _Placed(NamedTuple):
    """A quantity's estimate in one place, and the range of its possible values."""

    estimate: Estimate
    possible: Range


class _Items(NamedTuple):
    """The items that a figure covers, and the strata of their passages. mask, passage: [items], over all items."""

    mask: Mask
    passage: NDArray[np.intp]
    strata: tuple[NDArray[np.intp], ...]


def _nodes(quantities: Iterable[Quantity]) -> list[Quantity]:
    """All quantities and their parts, each once, parts before wholes."""
    found: dict[int, Quantity] = {}

    def visit(quantity: Quantity) -> None:
        for side in quantity.sides:
            visit(side)
        found.setdefault(id(quantity), quantity)

    for quantity in quantities:
        visit(quantity)
    return list(found.values())


def _figures(
    nodes: Sequence[Quantity], resampling: Resampling, pooled: NDArray[np.bool_]
) -> dict[int, _Figures]:
    """Figures of all nodes by their identity. Only leaves' sums are drawn; differences follow. pooled: [languages]."""
    leaves = [node for node in nodes if not node.sides]
    # Raw drops, normalized drops and their differences sum the same columns; each is drawn once.
    places: dict[bytes, int] = {}
    columns: list[FloatArray] = []
    for leaf in leaves:
        for column in leaf.columns.T:
            if places.setdefault(column.tobytes(), len(columns)) == len(columns):
                columns.append(column)
    sums = totals(resampling, np.stack(columns, axis=-1), pooled=pooled)
    found: dict[int, _Figures] = {}
    for leaf in leaves:
        mine = [places[column.tobytes()] for column in leaf.columns.T]
        # Indexing the first of the moved axes copies whole sums, so that draws stay contiguous.
        parts = [np.moveaxis(np.moveaxis(part, -1, 0)[mine], 0, -1) for part in sums]
        given = np.array([leaf.given(row) for row in parts[0]])
        observed, drawn, without = (leaf.value(part) for part in parts)
        found[id(leaf)] = _Figures(observed, drawn, without, given)
    for node in nodes:
        if node.sides:
            one, other = (found[id(side)] for side in node.sides)
            found[id(node)] = _Figures(
                one.observed - other.observed,
                one.drawn - other.drawn,
                one.without - other.without,
                one.given & other.given,
            )
    return found


def _over(resampling: Resampling, languages: ArrayLike) -> _Items:
    """The items of some languages, given by their indices: [languages]."""
    mask = np.isin(resampling.language, languages)
    passages = np.unique(resampling.passage[mask])
    strata = tuple(
        np.intersect1d(stratum.passages, passages)
        for stratum in resampling.strata
        if np.isin(stratum.languages, languages).any()
    )
    return _Items(mask, resampling.passage, strata)


def _estimates(
    nodes: Sequence[Quantity],
    figures: Mapping[int, _Figures],
    place: int,
    items: _Items,
    levels: Sequence[float],
) -> dict[float, dict[int, _Placed]]:
    """Estimates of all nodes that are given in one place (a language or pooled), by level and identity of the node."""
    found: dict[float, dict[int, _Placed]] = {level: {} for level in levels}
    present = [node for node in nodes if figures[id(node)].given[place]]
    if not present:
        return found
    mine = [figures[id(node)] for node in present]
    observed = np.array([figure.observed[place] for figure in mine])
    # Transposed, so that the draws of a figure are contiguous: [draws, K], [passages, K].
    drawn, without = (
        np.stack([getattr(figure, part)[:, place] for figure in mine]).T for part in ("drawn", "without")
    )
    intervals = bca_levels(observed, drawn, without, items.strata, levels)
    events = _Events(items)
    for level, interval in zip(levels, intervals, strict=True):
        for k, node in enumerate(present):
            if node.sides:
                one, other = (found[level][id(side)] for side in node.sides)
                plain: Estimate | None = join(one.estimate, other.estimate)
                possible = range_apart(one.possible, other.possible)
            else:
                plain = node.plain(items.mask, level)
                possible = node.possible(items.mask, level)
            if plain is None:
                raise DataError("a figure was given that has no plain interval: please report this")
            bounds = float(interval.low[k]), float(interval.high[k]), bool(interval.defined[k])
            estimate = _chosen(node, float(observed[k]), bounds, plain, possible, events)
            found[level][id(node)] = _Placed(estimate, possible)
    return found


class _Events:
    """Changed items of quantities within some items, divided by the design effect; cached.

    They don't depend on the confidence level, so intervals at a higher level contain those at a lower one.
    """

    def __init__(self, items: _Items) -> None:
        self._items = items
        self._groups = cluster(items.passage[items.mask], int(items.mask.sum()))
        self._known: dict[int, float] = {}

    def of(self, leaf: Quantity) -> float:
        """The effective number of changed items of a quantity without sides."""
        if id(leaf) not in self._known:
            self._known[id(leaf)] = _effective(leaf.changed[self._items.mask], self._groups)
        return self._known[id(leaf)]


def _chosen(
    quantity: Quantity,
    value: float,
    bca_bounds: tuple[float, float, bool],
    plain: Estimate,
    possible: Range,
    events: _Events,
) -> Estimate:
    """The figure with BCa's bounds, the plain ones, or the wider. bca_bounds: low, high, whether defined."""
    *bounds, defined = bca_bounds
    changed = [events.of(leaf) if defined else 0.0 for leaf in _leaves(quantity)]
    low, high, method = choose(bounds[0], bounds[1], plain, changed)
    low, high = inside(low, high, value, possible)
    return plain._replace(value=value, low=low, high=high, method=method)


def _marked(quantity: Quantity, estimate: Estimate, items: _Items) -> Estimate:
    """The estimate, marked if its counts are outside the region of validated coverage."""
    most = max(int(leaf.changed[items.mask].sum()) for leaf in _leaves(quantity))
    checked = estimate.checked and estimate.n >= CHECKED_ITEMS and most >= CHECKED_EVENTS
    return estimate._replace(checked=checked)


def _leaves(quantity: Quantity) -> list[Quantity]:
    """The quantities without sides that a difference is made of."""
    return [leaf for side in quantity.sides for leaf in _leaves(side)] if quantity.sides else [quantity]


def _effective(changed: Mask, groups: Clusters) -> float:
    """The number of changed items, divided by the design effect. changed: [items]."""
    flags = changed.astype(np.float64)
    return float(flags.mean()) * effective_items(flags, groups)


def _means(
    quantities: Mapping[Name, Quantity],
    figures: Mapping[int, _Figures],
    placed: Sequence[Mapping[float, Mapping[int, _Placed]]],
    resampling: Resampling,
    pooled: NDArray[np.bool_],
    levels: Sequence[float],
) -> dict[float, dict[Name, Estimate]]:
    """Means over the pooled languages in which each quantity is given, by level and name; absent if there are none.

    placed: by place, level and node. pooled: [languages].
    """
    together: dict[tuple[int, ...], list[Name]] = {}
    for name, quantity in quantities.items():
        given = tuple(np.flatnonzero(figures[id(quantity)].given[:-1] & pooled).tolist())
        if given:
            together.setdefault(given, []).append(name)
    means: dict[float, dict[Name, Estimate]] = {level: {} for level in levels}
    for given, names in together.items():
        items = _over(resampling, given)
        mine = [figures[id(quantities[name])] for name in names]
        observed, drawn, without = (
            np.stack([part[..., list(given)].mean(axis=-1) for part in parts]).T
            for parts in zip(*(figure[:3] for figure in mine), strict=True)
        )
        intervals = bca_levels(observed, drawn, without, items.strata, levels)
        events = _Events(items)
        for level, interval in zip(levels, intervals, strict=True):
            for k, name in enumerate(names):
                parts = [placed[place][level][id(quantities[name])] for place in given]
                passages = sum(len(member) for member in items.strata)
                plain = mean_of([part.estimate for part in parts], passages)
                least, most = np.mean([part.possible for part in parts], axis=0)
                bounds = float(interval.low[k]), float(interval.high[k]), bool(interval.defined[k])
                possible = float(least), float(most)
                mean = _chosen(quantities[name], float(observed[k]), bounds, plain, possible, events)
                means[level][name] = _marked(quantities[name], mean, items)
    return means
