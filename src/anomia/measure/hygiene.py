"""What may spoil a comparison, by arm and language: cut prompts, moved boundaries, ties, sick outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from anomia.measure.between import BASE


@dataclass(frozen=True, slots=True)
class HygieneRow:
    """Counts of items of one arm in one language.

    truncated: passages that were cut; gold_truncated: and the gold answer with them. boundary_mismatch:
    options scored from before the prompt's end. rank_ties: gold's first token shares its logit.
    choice_ties: the two best options have equal scores. no_distinct_token: gold begins another option.
    degenerate: open outputs that say nothing. ungradable, no_standard_options: questions left out
    because no answer can be graded, or there are not three wrong ones. no_hard_options, no_passage_options:
    items without such distractors. overlapping_hard_distractors: wrong answers (not items) that can't be
    hard options because they contain gold or are contained in it. fertility: tokens a word of the
    passages, or a character where words have no spaces (fertility_unit). noise_items: items that base was
    asked again at another batch size; noise_flips: verdicts of open and choice that came out otherwise.
    None where the run did not count.
    """

    arm: str
    language: str
    items: int
    passages: int
    truncated: int
    gold_truncated: int
    boundary_mismatch: int
    unclosed_thinking: int
    not_finite: int
    degenerate: int
    rank_ties: int
    choice_ties: int
    no_distinct_token: int
    ungradable: int | None
    no_standard_options: int | None
    no_hard_options: int | None
    no_passage_options: int | None
    overlapping_hard_distractors: int | None
    fertility: float | None
    fertility_unit: str | None
    noise_items: int | None
    noise_flips: int | None


def hygiene(
    records: pl.DataFrame,
    provenance: Mapping[str, Any] | None = None,
    noise: Mapping[str, Any] | None = None,
) -> list[HygieneRow]:
    """Counts by arm and language.

    provenance: of the run's study: what was left out, and token counts. noise: the noise floor of base.
    """
    found = provenance or {}
    again = (noise or {}).get("languages", {})
    counted = records.group_by("arm", "language", maintain_order=True).agg(
        items=pl.len(),
        passages=pl.col("passage_id").n_unique(),
        truncated=pl.col("truncated").sum(),
        gold_truncated=pl.col("gold_truncated").sum(),
        boundary_mismatch=pl.col("boundary_mismatch").sum(),
        unclosed_thinking=pl.col("unclosed_thinking").sum(),
        not_finite=(~pl.col("finite")).sum(),
        degenerate=pl.col("open_degenerate").sum(),
        rank_ties=(pl.col("gold_rank_ties") > 0).sum(),
        choice_ties=pl.col("choice_scores").map_batches(_tied, return_dtype=pl.Boolean).sum(),
        no_distinct_token=(pl.col("gold_rank").is_not_null() & pl.col("gold_distinct_rank").is_null()).sum(),
    )
    # By arm in the order in which they come, then by language.
    place = {arm: n for n, arm in enumerate(records["arm"].unique(maintain_order=True))}
    rows = sorted(counted.iter_rows(named=True), key=lambda row: (place[row["arm"]], row["language"]))
    return [_row(row, found, again.get(row["language"]) if row["arm"] == BASE else None) for row in rows]


def _row(
    counts: Mapping[str, Any], provenance: Mapping[str, Any], again: Mapping[str, int] | None
) -> HygieneRow:
    language = counts["language"]
    excluded = provenance.get("excluded", {}).get(language, {})
    fertility = provenance.get("fertility", {}).get(language) or {}
    return HygieneRow(
        **counts,
        ungradable=excluded.get("ungradable"),
        no_standard_options=excluded.get("no_standard_options"),
        no_hard_options=excluded.get("no_hard_options"),
        no_passage_options=excluded.get("no_passage_options"),
        overlapping_hard_distractors=excluded.get("overlapping_hard_distractors"),
        fertility=fertility.get("tokens_per_unit"),
        fertility_unit=fertility.get("unit"),
        noise_items=again["items"] if again else None,
        noise_flips=again["open"] + again["choice"] if again else None,
    )


def _tied(scores: pl.Series) -> pl.Series:
    """Whether the two best options have equal scores; false where nothing was scored."""
    return pl.Series([_equal(row) for row in scores.to_list()], dtype=pl.Boolean)


def _equal(scores: Sequence[float] | None) -> bool:
    if scores is None or len(scores) < 2:
        return False
    second, first = np.sort(scores)[-2:]
    return bool(first == second)
