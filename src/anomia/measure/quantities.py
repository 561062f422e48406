"""Figures that are functions of sums over items, and their intervals per language and over languages.

A quantity names its columns, what is made of their sums, and a plain interval without resampling: score
intervals, joined by MOVER (Zou and Donner 2008) where a figure is a difference. Which interval is given
follows from how many items changed between base and arm, counted down by the design effect:
30 or more: BCa over passages (`bootstrap`). 10 to 29: the wider of BCa and the plain one on either side,
for BCa alone covers too little there (`docs/statistics.md`). Fewer, or BCa undefined: the plain one.
A difference takes BCa alone only if both of its sides have 30, and the plain one only if neither has 10.
No interval leaves the range of what is possible: no more than all of what base had can be lost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomia.errors import DataError
from anomia.measure.bootstrap import FloatArray, Resampling, bca_levels, totals
from anomia.measure.drops import above_floor
from anomia.measure.fates import FEWEST_BOTH_CORRECT
from anomia.measure.paired import paired_difference
from anomia.measure.rates import (
    CHECKED_EVENTS,
    CHECKED_ITEMS,
    Clusters,
    Estimate,
    cluster,
    effective_items,
    rate,
    right_or_wrong,
)

Mask = NDArray[np.bool_]
Range = tuple[float, float]
# What quantities are told apart by: text, or measures.
Name = TypeVar("Name", bound=str)

# The method of a difference whose interval joins those of its sides.
JOINED = "joined sides"
# From this many (effective) changed items on, BCa alone covers what it says.
BCA_ALONE = 30


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure over items.

    columns: what is summed: [items, C]. value: figure of the sums: [..., C] → [...], not a number where
    it is undefined. given: whether the sums [C] of the observed items allow the figure at all.
    plain: value and interval of the items under a mask at a level, without resampling; `checked` says whether what
    the figure is divided by rests on enough items. changed: the items that carry its uncertainty: [items].
    sides: of a difference, what it is a difference of; their columns follow each other in `columns`, and
    their intervals joined take the place of `plain`.
    """

    columns: FloatArray
    value: Callable[[FloatArray], FloatArray]
    given: Callable[[FloatArray], bool]
    plain: Callable[[Mask, float], Estimate | None]
    changed: Mask
    possible: Callable[[Mask, float], Range]
    sides: tuple[Quantity, ...] = ()


class Everywhere(NamedTuple):
    """One quantity by language, over the items of several languages pooled, and as a mean over those languages.

    left_out: languages that the mean leaves out: the quantity is not given there, or they are not pooled.
    """

    by_language: dict[str, Estimate | None]
    pooled: Estimate | None
    mean: Estimate | None
    left_out: tuple[str, ...]


def drop(base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None = None) -> Quantity:
    """Raw drop: base's accuracy − the arm's: [items] of right or wrong, or of grades from 0 to 1."""
    before, after, ids = _paired(base, arm, passages)
    return Quantity(
        columns=np.stack([before, after, np.ones_like(before)], axis=-1),
        value=lambda sums: _ratio(sums[..., 0] - sums[..., 1], sums[..., 2]),
        given=lambda sums: bool(sums[2] > 0),
        plain=lambda mask, level: _trusted(
            paired_difference(before[mask], after[mask], ids[mask], level=level)
        ),
        changed=before != after,
        possible=lambda mask, level: (-1.0, 1.0),
    )


def normalized(
    base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None = None, *, floor: ArrayLike
) -> Quantity:
    """Normalized drop: the share of what base had above the floor that the arm lost.

    base, arm: right or wrong by item: [items]. floor: what guessing gets, one number or [items]: questions
    that bring their options differ in how many.
    """
    before, after, ids = _paired(base, arm, passages)
    floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), before.shape)
    columns = [before, after, np.ones_like(before)]
    varied = bool(len(floors)) and bool(np.ptp(floors))
    if varied:
        columns.append(floors)
    one = float(floors[0]) if len(floors) else 0.0

    def height(sums: FloatArray) -> FloatArray:
        return sums[..., 0] - (sums[..., 3] if varied else one * sums[..., 2])

    def plain(mask: Mask, level: float) -> Estimate | None:
        if not mask.any() or not above_floor(float((before - floors)[mask].mean()), 0.0):
            return None
        found = _over_height(before[mask], after[mask], floors[mask], ids[mask], level)
        enough = float((before - floors)[mask].sum()) >= CHECKED_EVENTS - 1e-9
        return found and found._replace(checked=enough)

    def possible(mask: Mask, level: float) -> Range:
        seen = rate(before[mask], ids[mask], level=level)
        return possible_normalized(0.0 if seen is None else seen.low, float(floors[mask].mean()))

    def value(sums: FloatArray) -> FloatArray:
        # Sums of thirds in single precision are not quite 0 where they should be.
        above = np.where(height(sums) > 1e-4, height(sums), 0.0)
        return _ratio(sums[..., 0] - sums[..., 1], above)

    return Quantity(
        columns=np.stack(columns, axis=-1),
        value=value,
        given=lambda sums: bool(sums[2] > 0) and above_floor(float(height(sums) / sums[2]), 0.0),
        plain=plain,
        changed=before != after,
        possible=possible,
    )


def _over_height(
    base: FloatArray, arm: FloatArray, floors: FloatArray, ids: NDArray[np.intp], level: float
) -> Estimate | None:
    """The score interval of a raw drop over base's height above the floor: [items] each."""
    raw = paired_difference(base, arm, ids, level=level)
    if raw is None:
        return None
    height = float((base - floors).mean())
    scale = float(ratio_widening(base, arm, floors)) / height
    value = raw.value / height
    return raw._replace(
        value=value,
        low=value - (raw.value - raw.low) * scale,
        high=value + (raw.high - raw.value) * scale,
    )


def possible_normalized(base: float, floor: float) -> Range:
    """The range of normalized drops: the arm answers everything, or nothing.

    base: the lowest accuracy that base may have, by its interval. Not the one that was seen, for where base is
    luckier than it should be, a gain that is real lies outside the range of that.
    """
    height = base - floor
    if height <= 1e-9:
        return -math.inf, math.inf if floor > 0 else 1.0
    return (base - 1) / height, base / height


def ratio_widening(base: FloatArray, arm: FloatArray, floor: ArrayLike) -> FloatArray:
    """How much wider a normalized drop is than the raw drop over a known height: [items, …] → […].

    floor: one number, or one an item.

    By the delta method, and never below 1: where the arm is worse the height's uncertainty cancels part
    of the drop's, which few items can't be trusted to show; where it is better they add up.
    """
    drops = base - arm
    heights = base - np.asarray(floor)
    with np.errstate(invalid="ignore", divide="ignore"):
        linear = drops - drops.mean(axis=0) / heights.mean(axis=0) * heights
        widening = linear.std(axis=0) / drops.std(axis=0)
    return np.asarray(np.where(np.isfinite(widening), np.maximum(widening, 1.0), 1.0), dtype=np.float64)


def share(hits: ArrayLike, among: ArrayLike, passages: ArrayLike | None = None) -> Quantity:
    """Share of hits (0 to 1) among the items marked: a dissociation rate, a recovery rate: [items] each."""
    marked = right_or_wrong(among)
    found = np.where(marked, np.asarray(hits, dtype=np.float64), 0.0)
    ids = _ids(passages, len(marked))
    return Quantity(
        columns=np.stack([found, marked.astype(np.float64)], axis=-1),
        value=lambda sums: _ratio(sums[..., 0], sums[..., 1]),
        given=lambda sums: bool(sums[1] > 0),
        plain=lambda mask, level: _trusted(rate(found[mask & marked], ids[mask & marked], level=level)),
        changed=_rarer(marked & (found > 0), marked & (found < 1)),
        possible=lambda mask, level: (0.0, 1.0),
    )


def net_share(
    fell: ArrayLike, rose: ArrayLike, among: ArrayLike, passages: ArrayLike | None = None
) -> Quantity:
    """Net share: the items that fell − those that rose, over the items marked in `among`: a net dissociation rate.

    fell: a part of `among`. rose: the reverse flow, outside of it. All three are right or wrong: [items].
    Where changes have no direction, as between two runs of one model, it is 0. Not given for fewer than
    `FEWEST_BOTH_CORRECT` items in `among`.
    """
    lost, won, marked = (right_or_wrong(column) for column in (fell, rose, among))
    if (lost & ~marked).any() or (won & marked).any():
        raise DataError(
            "of a net share the items that fell lie among those marked, and those that rose do not"
        )
    # Those marked before, and after: the net share is the normalized drop of one to the other.
    before, after, ids = _paired(marked, (marked & ~lost) | won, passages)

    def plain(mask: Mask, level: float) -> Estimate | None:
        n = int(marked[mask].sum())
        if n < FEWEST_BOTH_CORRECT:
            return None
        found = _over_height(before[mask], after[mask], np.zeros(int(mask.sum())), ids[mask], level)
        return found and _trusted(found._replace(n=n, clusters=len(np.unique(ids[mask & marked]))))

    drops = normalized(marked, after, passages, floor=0.0)
    return replace(drops, given=lambda sums: bool(sums[0] >= FEWEST_BOTH_CORRECT), plain=plain)


def expected_share(
    kept_open: ArrayLike, kept_choice: ArrayLike, among: ArrayLike, passages: ArrayLike | None = None
) -> Quantity:
    """What a dissociation rate would be if open and choice changed independently, each as much as it did.

    (1 − the share that keeps open) × the share that keeps choice, among the items marked: right or wrong,
    [items]. Not given for fewer than `FEWEST_BOTH_CORRECT` of them.
    """
    opened, chosen, marked = (right_or_wrong(column) for column in (kept_open, kept_choice, among))
    failed, kept = (marked & ~opened), (marked & chosen)
    ids = _ids(passages, len(marked))

    def plain(mask: Mask, level: float) -> Estimate | None:
        here = mask & marked
        if here.sum() < FEWEST_BOTH_CORRECT:
            return None
        one, other = (rate(column[here], ids[here], level=level) for column in (failed, kept))
        return None if one is None or other is None else _trusted(_product(one, other))

    return Quantity(
        columns=np.stack([column.astype(np.float64) for column in (failed, kept, marked)], axis=-1),
        value=lambda sums: _ratio(sums[..., 0], sums[..., 2]) * _ratio(sums[..., 1], sums[..., 2]),
        given=lambda sums: bool(sums[2] >= FEWEST_BOTH_CORRECT),
        plain=plain,
        changed=_rarer(failed, marked & opened),
        possible=lambda mask, level: (0.0, 1.0),
    )


def minus(first: Quantity, second: Quantity) -> Quantity:
    """The difference of two quantities of the same items, resampled together.

    Where BCa alone won't do, its interval joins theirs as if they were independent: too wide where they
    move together.
    """
    split = first.columns.shape[1]
    return Quantity(
        columns=np.concatenate([first.columns, second.columns], axis=1),
        value=lambda sums: first.value(sums[..., :split]) - second.value(sums[..., split:]),
        given=lambda sums: first.given(sums[:split]) and second.given(sums[split:]),
        plain=lambda mask, level: _joined(first.plain(mask, level), second.plain(mask, level)),
        changed=first.changed | second.changed,
        possible=lambda mask, level: range_apart(first.possible(mask, level), second.possible(mask, level)),
        sides=(first, second),
    )


def gap_quantity(
    base_open: ArrayLike,
    arm_open: ArrayLike,
    base_choice: ArrayLike,
    arm_choice: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    floor: ArrayLike,
) -> Quantity:
    """ΔPR: the normalized drop of open − that of choice; `floor` is choice's."""
    return minus(
        normalized(base_open, arm_open, passages, floor=0.0),
        normalized(base_choice, arm_choice, passages, floor=floor),
    )


def join(one: Estimate, other: Estimate) -> Estimate:
    """Interval of one figure − another from theirs (MOVER), as if they were independent."""
    value = one.value - other.value
    below = ((one.value - one.low) ** 2 + (other.high - other.value) ** 2) ** 0.5
    above = ((one.high - one.value) ** 2 + (other.value - other.low) ** 2) ** 0.5
    return Estimate(
        value,
        value - below,
        value + above,
        min(one.n, other.n),
        min(one.clusters, other.clusters),
        JOINED,
        one.checked and other.checked,
    )


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
    """Many quantities of the same items in one pass over the draws, which is most of the work.

    pooled: the languages that the pooled figures and the means cover; None for all. The other languages
    get figures of their own and nothing else.
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

    An interval at a higher level contains those at lower ones.
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
        left_out = tuple(
            language
            for language, is_pooled in zip(resampling.languages, languages, strict=True)
            if by_language[language] is None or not is_pooled
        )
        found[level][name] = Everywhere(by_language, places[-1], means[level].get(name), left_out)
    return found


class _Figures(NamedTuple):
    """A quantity in every language and, last, over the pooled ones: L + 1 places.

    observed: [L + 1]. drawn: [draws, L + 1]. without: [passages, L + 1]. given: [L + 1].
    """

    observed: FloatArray
    drawn: FloatArray
    without: FloatArray
    given: Mask


class _Placed(NamedTuple):
    """A quantity's figure in one place, and the range in which it must lie."""

    estimate: Estimate
    possible: Range


class _Items(NamedTuple):
    """Which items a figure is over, their passages, and the strata of those."""

    mask: Mask
    passage: NDArray[np.intp]
    strata: tuple[NDArray[np.intp], ...]


def _nodes(quantities: Iterable[Quantity]) -> list[Quantity]:
    """All quantities and what they are made of, each once, parts before wholes."""
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
    """Figures of all nodes by their identity: sums are drawn for leaves alone, differences follow."""
    leaves = [node for node in nodes if not node.sides]
    # Raw and normalized drops, and what they are part of, sum the same columns: each is drawn once.
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
        # Picked along the last axis and seen as before: copies of whole sums.
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
    """The items of some languages (their numbers)."""
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
    """Every node that is given in one place (a language, or pooled), with the interval that its items allow."""
    found: dict[float, dict[int, _Placed]] = {level: {} for level in levels}
    present = [node for node in nodes if figures[id(node)].given[place]]
    if not present:
        return found
    mine = [figures[id(node)] for node in present]
    observed = np.array([figure.observed[place] for figure in mine])
    # Transposed, so that the draws of a figure lie side by side.
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
    """Changed items of quantities among some items, counted down by the design effect; each counted once.

    The same at every level of confidence, so that intervals of a higher level contain those of a lower one.
    """

    def __init__(self, items: _Items) -> None:
        self._items = items
        self._groups = cluster(items.passage[items.mask], int(items.mask.sum()))
        self._known: dict[int, float] = {}

    def of(self, leaf: Quantity) -> float:
        """Of a quantity without sides."""
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


def inside(low: float, high: float, value: float, possible: Range) -> Range:
    """An interval without what is not possible; it keeps its value."""
    return min(max(low, possible[0]), value), max(min(high, possible[1]), value)


def range_apart(one: Range, other: Range) -> Range:
    """The range of a difference."""
    return one[0] - other[1], one[1] - other[0]


def _marked(quantity: Quantity, estimate: Estimate, items: _Items) -> Estimate:
    """The estimate, marked where its counts are outside the region in which coverage was shown."""
    most = max(int(leaf.changed[items.mask].sum()) for leaf in _leaves(quantity))
    checked = estimate.checked and estimate.n >= CHECKED_ITEMS and most >= CHECKED_EVENTS
    return estimate._replace(checked=checked)


def _leaves(quantity: Quantity) -> list[Quantity]:
    """The quantities that a difference is made of in the end."""
    return [leaf for side in quantity.sides for leaf in _leaves(side)] if quantity.sides else [quantity]


def choose(low: float, high: float, plain: Estimate, events: Sequence[float]) -> tuple[float, float, str]:
    """The interval to give, and its name. low, high: BCa's. events: changed items on each side."""
    if max(events) < CHECKED_EVENTS:
        return plain.low, plain.high, plain.method
    if min(events) < BCA_ALONE:
        return min(low, plain.low), max(high, plain.high), f"wider of BCa and {plain.method}"
    return low, high, "BCa over passages"


def _effective(changed: Mask, groups: Clusters) -> float:
    """Changed items, counted down by the design effect."""
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
    """Means over the pooled languages in which each quantity is given, by name; absent where there is none.

    placed: by place, level and node.
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
                plain = _joined_languages([part.estimate for part in parts], passages)
                least, most = np.mean([part.possible for part in parts], axis=0)
                bounds = float(interval.low[k]), float(interval.high[k]), bool(interval.defined[k])
                possible = float(least), float(most)
                mean = _chosen(quantities[name], float(observed[k]), bounds, plain, possible, events)
                means[level][name] = _marked(quantities[name], mean, items)
    return means


def _joined_languages(parts: Sequence[Estimate], passages: int) -> Estimate:
    """The mean of independent figures, its interval joined from theirs."""
    value = sum(part.value for part in parts) / len(parts)
    below = sum((part.value - part.low) ** 2 for part in parts) ** 0.5 / len(parts)
    above = sum((part.high - part.value) ** 2 for part in parts) ** 0.5 / len(parts)
    return Estimate(
        value,
        value - below,
        value + above,
        sum(part.n for part in parts),
        passages,
        parts[0].method if len(parts) == 1 else "joined languages",
        # Languages add up: what is too little in one may be enough in their mean.
        True,
    )


def _paired(
    base: ArrayLike, arm: ArrayLike, passages: ArrayLike | None
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    before, after = np.asarray(base, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    if before.shape != after.shape:
        raise DataError(
            f"paired items must match: {before.shape} and {after.shape}; join the records by item"
        )
    return before, after, _ids(passages, len(before))


def _product(one: Estimate, other: Estimate) -> Estimate:
    """Interval of the product of two rates from theirs (MOVER), as if they were independent."""
    value = one.value * other.value
    below = ((one.value - one.low) * other.value) ** 2 + ((other.value - other.low) * one.value) ** 2
    above = ((one.high - one.value) * other.value) ** 2 + ((other.high - other.value) * one.value) ** 2
    return Estimate(
        value, value - below**0.5, value + above**0.5, one.n, one.clusters, "product of two rates", True
    )


def _rarer(one: Mask, other: Mask) -> Mask:
    """The class with fewer items, on which a share's uncertainty rests."""
    return one if one.sum() <= other.sum() else other


def _joined(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    return None if one is None or other is None else join(one, other)


def _trusted(estimate: Estimate | None) -> Estimate | None:
    """A plain interval that is divided by nothing but the number of items."""
    return None if estimate is None else estimate._replace(checked=True)


def _ids(passages: ArrayLike | None, items: int) -> NDArray[np.intp]:
    # Numbers sort and compare faster than names, and this is done for every language and arm.
    return cluster(passages, items).index


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(under != 0, over / under, np.nan), dtype=np.float64)
