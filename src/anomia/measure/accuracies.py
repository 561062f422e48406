"""Accuracies of one arm for every form of the question, and what broader decoding finds."""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomia.measure import measures
from anomia.measure.figures import Figure
from anomia.measure.frame import (
    MEAN,
    RECOGNITION,
    Floats,
    both,
    floats,
    known,
    right,
    scopes,
)
from anomia.measure.measures import LARGEST_K, Measure
from anomia.measure.oracle import pass_at_k, recovery
from anomia.measure.paired import paired_difference
from anomia.measure.rates import mean_rate, rate
from anomia.probes import BY_NAME, FORMATS, GENERATED, GRADES, NO_QUESTION, ORACLES, SAMPLED


def accuracies(arm: str, rows: pl.DataFrame) -> Iterator[Figure]:
    """Shares of right answers of one arm, by language and pooled."""
    columns = {name: f"{name}_correct" for name in (*GENERATED, *NO_QUESTION)}
    columns |= {way.name: way.column for way in RECOGNITION.values()}
    columns |= {grade.name: grade.column for grade in GRADES}
    columns |= {f"oracle_{way}": f"oracle_{way}" for way in ("greedy", *ORACLES)}
    for name, column in columns.items():
        yield from _rates(arm, measures.accuracy(name), rows, column)
    for name in ("loop", "degenerate"):
        yield from _rates(arm, measures.outputs(name), rows, f"open_{name}")
    yield from _easier(arm, rows)
    for name in SAMPLED:
        yield from _by_seed(arm, rows, name)
    for name in SAMPLED:
        yield from _pass_curve(arm, rows, name)


def changes(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """How many answers change between right and wrong from base to the arm, in either direction, and how many more
    outputs loop.
    """
    for name in FORMATS:
        part = known(pairs, both(f"{name}_correct"))
        flipped = right(part, f"{name}_correct") != right(part, f"{name}_correct_arm")
        languages = set(pairs["language"].unique())
        yield from rates_of(
            arm,
            measures.flips(name),
            part,
            flipped.astype(np.float64),
            part["passage"].to_numpy(),
            languages=languages,
        )
    part = known(pairs, both("open_loop"))
    before, after, passages = (
        right(part, "open_loop"),
        right(part, "open_loop_arm"),
        part["passage"].to_numpy(),
    )
    for scope, mask in scopes(part):
        yield Figure(
            arm,
            measures.outputs("loop_more"),
            scope,
            paired_difference(after[mask], before[mask], passages[mask]),
        )


def recoveries(arm: str, pairs: pl.DataFrame) -> Iterator[Figure]:
    """Recovery among open failures, its two parts and its placebo, by language and pooled."""
    for way in ORACLES:
        columns = (f"oracle_{way}", f"control_{way}", "open_correct")
        part = known(pairs, both(*columns))
        passages = part["passage"].to_numpy()
        for scope, mask in scopes(part):
            found = recovery(
                right(part, "open_correct")[mask],
                right(part, "open_correct_arm")[mask],
                floats(part, f"oracle_{way}")[mask],
                floats(part, f"oracle_{way}_arm")[mask],
                floats(part, f"control_{way}_arm")[mask],
                passages[mask],
            )
            for name, estimate in found._asdict().items():
                yield Figure(arm, measures.recovery(way, name), scope, estimate)


def _rates(arm: str, measure: Measure, rows: pl.DataFrame, column: str) -> Iterator[Figure]:
    graded = known(rows, [column])
    values, passages = floats(graded, column), graded["passage"].to_numpy()
    yield from rates_of(arm, measure, graded, values, passages, languages=set(rows["language"].unique()))


def rates_of(
    arm: str,
    measure: Measure,
    graded: pl.DataFrame,
    values: Floats,
    passages: NDArray[np.intp],
    *,
    languages: Set[str],
) -> Iterator[Figure]:
    """A rate in every language, pooled, and as a mean over languages, which names those that lack it.

    values: 0 to 1, one per row of `graded`: [items]. passages: [items].
    languages: all languages of the run, with or without rows in `graded`.
    """
    for scope, mask in scopes(graded):
        yield Figure(arm, measure, scope, rate(values[mask], passages[mask]))
    pooled = graded["pooled"].to_numpy()
    if pooled.any():
        labels = graded["language"].to_numpy()[pooled]
        excluded = tuple(sorted(languages - set(labels.tolist())))
        yield Figure(arm, measure, MEAN, mean_rate(values[pooled], labels, passages[pooled]), excluded)


def _easier(arm: str, rows: pl.DataFrame) -> Iterator[Figure]:
    """Accuracy of choice − that of open on the same items (paper, Figure 7)."""
    graded = known(rows, ["open_correct", "choice_correct"])
    opened, chosen = right(graded, "open_correct"), right(graded, "choice_correct")
    passages = graded["passage"].to_numpy()
    for scope, mask in scopes(graded):
        found = paired_difference(chosen[mask], opened[mask], passages[mask])
        yield Figure(arm, measures.accuracy("choice_minus_open"), scope, found)


def _by_seed(arm: str, rows: pl.DataFrame, name: str) -> Iterator[Figure]:
    """Oracle recovery by samples with each seed alone, if there are several."""
    column, drawn_with = BY_NAME[name].column, BY_NAME[name].each("seeds")
    asked = known(rows, [column])
    seeds = sorted(set(asked[drawn_with].explode().to_list()))
    if len(seeds) < 2:
        return
    for seed in seeds:
        hits = [
            any(hit for hit, drawn in zip(right_ones, mine, strict=True) if drawn == seed)
            for right_ones, mine in asked.select(column, drawn_with).iter_rows()
        ]
        frame = asked.with_columns(hit=pl.Series(hits, dtype=pl.Boolean))
        yield from _rates(arm, measures.oracle_with_seed(name, seed), frame, "hit")


def _pass_curve(arm: str, rows: pl.DataFrame, name: str) -> Iterator[Figure]:
    column = BY_NAME[name].column
    asked = known(rows, [column])
    if asked.is_empty():
        return
    drawn = asked[column].list.len().to_numpy()
    found = asked[column].list.sum().to_numpy()
    passages = asked["passage"].to_numpy()
    for k in range(1, min(LARGEST_K, int(drawn.min())) + 1):
        chances = np.empty(len(found))
        for samples in np.unique(drawn):
            chances[drawn == samples] = pass_at_k(found[drawn == samples], int(samples), k)
        languages = set(rows["language"].unique())
        yield from rates_of(arm, measures.pass_at_k(name, k), asked, chances, passages, languages=languages)
