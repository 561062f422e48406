"""Figures of an arm against base with bootstrap intervals: drops, gaps, contrasts, recoveries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import polars as pl

from anomia.measure import measures
from anomia.measure.bootstrap import resample
from anomia.measure.dissociation import Answers, dissociation, expected_dissociation, net_dissociation
from anomia.measure.everywhere import everywhere_all
from anomia.measure.figures import Figure
from anomia.measure.frame import (
    MEAN,
    POOLED,
    RECOGNITION,
    Floats,
    Recognition,
    both,
    floats,
    known,
    pooled_languages,
    right,
)
from anomia.measure.measures import Measure
from anomia.measure.quantities import Quantity, drop, minus, normalized, share
from anomia.probes import (
    BY_NAME,
    CUED,
    DECIDING,
    GENERATED,
    GRADINGS,
    NO_QUESTION,
    ONE_SHOT,
    OPTION_KINDS,
    ORACLES,
    STANDARD,
    VARIANTS,
    ZERO_SHOT,
)

# Grades of the free-form answer, which share its floor.
OPEN_GRADES = ("open_correct", *GRADINGS, "open_strict")


class Pairs:
    """The same items in base and in an arm; quantities over them are built once, so that figures share their draws."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows
        self.passages = rows["passage"].to_numpy()
        self._built: dict[tuple[str, str, str | None], Quantity] = {}

    def drop(self, column: str) -> Quantity:
        """Raw drop of a column of verdicts or grades."""
        return self._once(("drop", column, None), lambda: drop(*self._sides(column), self.passages))

    def normalized(self, column: str, floor: str | None = None) -> Quantity:
        """Normalized drop of a column of verdicts. floor: the column of what guessing scores; None for that of the
        free-form answer, or 0 for other generations.
        """
        floor = "open_floor" if floor is None and column in OPEN_GRADES else floor
        floors = 0.0 if floor is None else floats(self.rows, floor)
        return self._once(
            ("normalized", column, floor),
            lambda: normalized(*self._sides(column), self.passages, floor=floors),
        )

    def dissociation(self, way: Recognition) -> Quantity:
        """Dissociation rate under one way to test recognition."""
        return self._once(
            ("dissociation", way.column, None),
            lambda: dissociation(self._answers(way), self.passages),
        )

    def net_dissociation(self, way: Recognition) -> Quantity:
        """Choice-only items − those that moved the other way, over base's both-correct items."""
        return self._once(
            ("net", way.column, None), lambda: net_dissociation(self._answers(way), self.passages)
        )

    def expected_dissociation(self, way: Recognition) -> Quantity:
        """The dissociation rate that would result if open and choice changed independently."""
        return self._once(
            ("expected", way.column, None), lambda: expected_dissociation(self._answers(way), self.passages)
        )

    def recovery(self, way: str, among: str, *, of: str = "oracle", arm: bool = True) -> Quantity:
        """Share of open failures that broader decoding recovers.

        way: a search or samples. of: `oracle` for gold, `control` for the wrong option in its place. arm: of the arm,
            otherwise of base.
        among: `failed` (by the same model), `failed_before` (by base too) or `newly_broken`.
        """
        side = "_arm" if arm else ""
        failed, before = (floats(self.rows, f"open_correct{s}") == 0 for s in (side, ""))
        marked = {"failed": failed, "failed_before": failed & before, "newly_broken": failed & ~before}[among]
        hits = floats(self.rows, f"{of}_{way}{side}")
        key = f"{of} {way}{side} {among}"
        return self._once(("recovery", key, None), lambda: share(hits, marked, self.passages))

    def _answers(self, way: Recognition) -> Answers:
        return Answers(*(right(self.rows, column) for column in both("open_correct", way.column)))

    def _sides(self, column: str) -> tuple[Floats, Floats]:
        return floats(self.rows, column), floats(self.rows, f"{column}_arm")

    def _once(self, key: tuple[str, str, str | None], build: Callable[[], Quantity]) -> Quantity:
        if key not in self._built:
            self._built[key] = build()
        return self._built[key]


Build = Callable[[Pairs], Quantity]


class Comparison(NamedTuple):
    """A measure, the columns that it needs in base and in the arm, and how to build it."""

    measure: Measure
    columns: tuple[str, ...]
    build: Build


def against_base(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """All comparisons of an arm with base; those over the same items share their draws."""
    pooled = pooled_languages(pairs)
    by_items: dict[bytes, tuple[Pairs, dict[Measure, Quantity]]] = {}
    for measure, needed, build in comparisons():
        mask = pairs.select(pl.all_horizontal(pl.col(both(*needed)).is_not_null())).to_series()
        if not mask.any():
            continue
        key = mask.to_numpy().tobytes()
        if key not in by_items:
            by_items[key] = Pairs(known(pairs, both(*needed))), {}
        part, quantities = by_items[key]
        quantities[measure] = build(part)
    for part, quantities in by_items.values():
        draws = resample(part.rows["language"].to_list(), part.passages)
        for measure, found in everywhere_all(quantities, draws, pooled=pooled).items():
            for language, estimate in found.by_language.items():
                yield Figure(arm, measure, language, estimate)
            yield Figure(arm, measure, POOLED, found.pooled)
            yield Figure(arm, measure, MEAN, found.mean, found.excluded)


def comparisons() -> Iterator[Comparison]:
    """Every bootstrapped figure of an arm against base, in the order of the table."""
    yield from _drops()
    yield from _gaps()
    yield from _contrasts()
    for way in ORACLES:
        yield from _recoveries(way)


def _drops() -> Iterator[Comparison]:
    for name in GENERATED:
        yield _drop(name, f"{name}_correct")
        yield _normalized(name, f"{name}_correct")
    for way in RECOGNITION.values():
        yield _drop(way.name, way.column)
        yield _normalized(way.name, way.column, way.floor)
    for name in NO_QUESTION:
        yield _drop(name, f"{name}_correct")
        yield _normalized(name, f"{name}_correct", f"{name}_floor")
    for name in CUED:
        yield _normalized(f"{name}_chance", f"{name}_correct", "choice_floor")
    for name in ("open_em", "open_strict"):
        yield _normalized(name, name)
    for name in (*VARIANTS, *(f"oracle_{way}" for way in ("greedy", *ORACLES))):
        yield _drop(name, name)


def _drop(name: str, column: str) -> Comparison:
    return Comparison(measures.drop(name), (column,), lambda pairs: pairs.drop(column))


def _normalized(name: str, column: str, floor: str | None = None) -> Comparison:
    return Comparison(
        measures.normalized_drop(name), (column,), lambda pairs: pairs.normalized(column, floor)
    )


def _gaps() -> Iterator[Comparison]:
    for way in RECOGNITION.values():
        yield _gap(measures.gap(way.name), "open_correct", way.column, way.floor)
        yield _drops_apart(measures.raw_gap(way.name), "open_correct", way.column)
        columns = ("open_correct", way.column)
        yield Comparison(measures.net_dissociation(way.name), columns, _of(Pairs.net_dissociation, way))
        yield Comparison(
            measures.expected_dissociation(way.name), columns, _of(Pairs.expected_dissociation, way)
        )
    for name in DECIDING:
        way = RECOGNITION[name]
        yield _gap(measures.gap_strict(name), "open_strict", way.column, way.floor)
        yield _drops_apart(measures.raw_gap_strict(name), "open_strict", way.column)
    for name in CUED:
        # The paper gives no floor for cued.
        yield _gap(measures.gap(name), "open_correct", f"{name}_correct", None)
        yield _gap(measures.gap(f"{name}_chance"), "open_correct", f"{name}_correct", "choice_floor")


def _of(quantity: Callable[[Pairs, Recognition], Quantity], way: Recognition) -> Build:
    return lambda pairs: quantity(pairs, way)


def _gap(measure: Measure, opened: str, column: str, floor: str | None) -> Comparison:
    return Comparison(
        measure,
        (opened, column),
        lambda pairs: minus(pairs.normalized(opened), pairs.normalized(column, floor)),
    )


def _contrasts() -> Iterator[Comparison]:
    for kind in OPTION_KINDS:
        if kind.name != STANDARD:
            yield _dissociation(kind.name, kind.probe)
    yield _drops_apart(
        measures.contrast("drop_zero_minus_one_shot"), BY_NAME[ZERO_SHOT].column, BY_NAME[ONE_SHOT].column
    )
    for way in ORACLES:
        yield _drops_apart(measures.contrast(f"drop_{way}_minus_greedy"), f"oracle_{way}", "oracle_greedy")


def _dissociation(name: str, options: str) -> Comparison:
    one, other = RECOGNITION[options], RECOGNITION["choice"]
    return Comparison(
        measures.contrast(f"dissociation_{name}_minus_standard"),
        ("open_correct", other.column, one.column),
        lambda pairs: minus(pairs.dissociation(one), pairs.dissociation(other)),
    )


def _drops_apart(measure: Measure, one: str, other: str) -> Comparison:
    return Comparison(measure, (one, other), lambda pairs: minus(pairs.drop(one), pairs.drop(other)))


def _recoveries(way: str) -> Iterator[Comparison]:
    for among in ("failed", "failed_before"):
        yield _recovery("base", way, among, lambda pairs: pairs.recovery(way, "failed", arm=False))
    for among in ("failed", "failed_before", "newly_broken"):
        yield _recovery("control", way, among, _control(way, among))


def _control(way: str, among: str) -> Build:
    return lambda pairs: pairs.recovery(way, among, of="control")


def _recovery(over: str, way: str, among: str, placebo: Build) -> Comparison:
    family = {"base": measures.recovery_over_base, "control": measures.recovery_over_control}[over]
    return Comparison(
        family(way) if among == "failed" else family(way, among),
        (f"oracle_{way}", f"control_{way}", "open_correct"),
        lambda pairs: minus(pairs.recovery(way, among), placebo(pairs)),
    )
