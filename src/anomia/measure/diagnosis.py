"""From the records of a run to its figures: one long table with intervals, and the tables that are not figures.

A figure is (arm, measure, scope). The scope is a language, `pooled` (all items of the languages in which base is strong
enough; see `scope`) or `mean` (the unweighted mean over those languages). `docs/results.md` lists the measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import polars as pl

from anomia.measure.accuracies import accuracies, changes, recoveries
from anomia.measure.between import between_rows
from anomia.measure.comparisons import against_base
from anomia.measure.families import grading_rows, paired_tests
from anomia.measure.figures import (
    BetweenRow,
    DamageRow,
    Diagnosis,
    DivergenceRow,
    Fates,
    Figure,
    GradingRow,
    LogProbRow,
    PairedTestRow,
    RankRow,
    TransitionRow,
)
from anomia.measure.frame import KEY, arms_of, pair, pool, prepare
from anomia.measure.long_answers import damage_rows, long_changes, long_figures
from anomia.measure.measures import of_base
from anomia.measure.positions import PLACES, divergences, log_prob_rows, rank_rows
from anomia.measure.recognition import recognition
from anomia.measure.scope import scope_of


def diagnose(
    records: pl.DataFrame,
    *,
    base: str = "base",
    vocabulary: int | None = None,
    vocabularies: Mapping[str, int] | None = None,
) -> Diagnosis:
    """Compute all figures of all arms against base.

    Args:
        records: rows of `anomia.records.SCHEMA`, of one data set.
        base: the arm that the others are compared with.
        vocabulary: how many tokens compete for a rank in base, if known.
        vocabularies: the same for other arms, where known; the rest use base's if their ranks fit it.
    """
    records = prepare(records)
    records = pool(records, scope_of(records, base=base).languages)
    figures: list[Figure] = []
    counts: list[Fates] = []
    flows: list[TransitionRow] = []
    ranks: list[RankRow] = []
    log_probs: list[LogProbRow] = []
    tests: list[PairedTestRow] = []
    divergence: list[DivergenceRow] = []
    gradings: list[GradingRow] = []
    damage: list[DamageRow] = []
    for arm in records["arm"].unique(maintain_order=True):
        mine = records.filter(pl.col("arm") == arm)
        figures += [*accuracies(arm, mine), *long_figures(arm, mine)]
    pairs = {arm: pair(records, arm, base=base) for arm in arms_of(records, base=base)}
    for arm in pairs:
        figures += _base_on_fewer(records, arm, base)
    for arm, part in pairs.items():
        compared = list(against_base(arm, part))
        recognised = recognition(arm, part)
        figures += [*compared, *recognised.figures, *changes(arm, part), *recoveries(arm, part)]
        figures += long_changes(arm, part)
        damage += damage_rows(arm, part)
        counts += recognised.counts
        flows += recognised.transitions
        own = (vocabularies or {}).get(arm, None if _ranks_beyond(part, vocabulary) else vocabulary)
        for ranked in rank_rows(arm, part, vocabulary=vocabulary):
            after = replace(ranked, vocabulary_share=ranked.median / own if own else None)
            ranks.append(ranked if ranked.when == "before" else after)
        log_probs += log_prob_rows(arm, part)
        tests += paired_tests(arm, part)
        gradings += grading_rows(arm, compared)
        for row, found in divergences(arm, part):
            divergence.append(row)
            figures += found
    between: tuple[BetweenRow, ...] = tuple(between_rows(pairs))
    return Diagnosis(
        tuple(figures),
        tuple(counts),
        tuple(ranks),
        tuple(log_probs),
        tuple(tests),
        tuple(divergence),
        tuple(gradings),
        between,
        tuple(flows),
        tuple(damage),
    )


def _ranks_beyond(pairs: pl.DataFrame, vocabulary: int | None) -> bool:
    """Whether an arm has a rank larger than base's vocabulary."""
    largest = pairs.select(pl.max_horizontal(pl.max(f"{place}_rank_arm") for place in PLACES)).item()
    return vocabulary is not None and largest is not None and largest > vocabulary


def _base_on_fewer(records: pl.DataFrame, arm: str, base: str) -> Iterator[Figure]:
    """Base's accuracies, as `before/…`, over the items of an arm that has not (yet) answered all of base's."""
    whole, mine = (records.filter(pl.col("arm") == name) for name in (base, arm))
    same = whole.join(mine.select(KEY), on=KEY, how="semi", maintain_order="left")
    if len(same) < len(whole):
        for figure in (*accuracies(arm, same), *long_figures(arm, same)):
            yield figure._replace(measure=of_base(figure.measure))
