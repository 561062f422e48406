"""How near gold is to the top in base and in an arm, by fate and language: ranks, probabilities, divergence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from anomia.measure.divergence import summarize_divergence
from anomia.measure.figures import DivergenceRow, Figure, LogProbRow, RankRow
from anomia.measure.frame import both, floats, known, scopes
from anomia.measure.measures import divergence
from anomia.measure.quantiles import quantile
from anomia.measure.ranks import summarize_ranks
from anomia.measure.rates import student_mean
from anomia.measure.recognition import groups

PLACES = ("gold", "gold_distinct", "control", "control_distinct")


def rank_rows(arm: str, pairs: pl.DataFrame, *, vocabulary: int | None = None) -> Iterator[RankRow]:
    """Ranks of gold and of the control answer before and after compression, by group and scope.

    Source: paper, section 3.3 (Figure 3). vocabulary: number of tokens that compete for the rank, if known.
    """
    for place in PLACES:
        columns = [f"{place}_{part}" for part in ("rank", "rank_ties", "margin")]
        part = known(pairs, both(*columns))
        masks = groups(part)
        passages = part["passage"].to_numpy()
        for when, side in (("before", ""), ("after", "_arm")):
            ranks, ties, margins = (floats(part, f"{column}{side}") for column in columns)
            for scope, here in scopes(part):
                for group, mask in masks.items():
                    chosen = mask & here
                    found = summarize_ranks(
                        ranks[chosen], ties[chosen], passages[chosen], vocabulary=vocabulary
                    )
                    if found is None:
                        continue
                    yield RankRow(
                        arm,
                        place,
                        when,
                        group,
                        scope,
                        **found._asdict(),
                        median_margin=float(np.median(margins[chosen])),
                        margin_interval=quantile(margins[chosen], 0.5, passages[chosen]),
                    )


def log_prob_rows(arm: str, pairs: pl.DataFrame) -> Iterator[LogProbRow]:
    """Log-probability of the whole gold answer before and after, by group and scope."""
    part = known(pairs, both("gold_log_prob"))
    before, after = floats(part, "gold_log_prob"), floats(part, "gold_log_prob_arm")
    passages = part["passage"].to_numpy()
    for scope, here in scopes(part):
        for group, mask in groups(part).items():
            chosen = mask & here
            if not chosen.any():
                continue
            yield LogProbRow(
                arm,
                group,
                scope,
                int(chosen.sum()),
                float(np.median(before[chosen])),
                float(np.median(after[chosen])),
                student_mean(after[chosen] - before[chosen], passages[chosen]),
            )


def divergences(arm: str, pairs: pl.DataFrame) -> Iterator[tuple[DivergenceRow, list[Figure]]]:
    """KL(base ‖ arm) and how often both have the same likeliest next token, by scope."""
    part = known(pairs, ["kl_from_base_arm", "top1_agrees_arm", "tail_mass"])
    values, same, tails = (
        floats(part, column) for column in ("kl_from_base_arm", "top1_agrees_arm", "tail_mass")
    )
    passages = part["passage"].to_numpy()
    for scope, mask in scopes(part):
        found = summarize_divergence(values[mask], same[mask], tails[mask], passages[mask])
        if found is None:
            continue
        row = DivergenceRow(
            arm,
            scope,
            int(mask.sum()),
            found.median,
            found.upper_decile,
            found.largest_tail,
            found.median_interval,
            found.upper_decile_interval,
        )
        yield (
            row,
            [
                Figure(arm, divergence("kl"), scope, found.mean),
                Figure(arm, divergence("top1_agreement"), scope, found.top1_agreement),
            ],
        )
