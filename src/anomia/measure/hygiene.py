"""What may spoil a comparison, by arm and language: truncated prompts, shifted boundaries, ties, broken outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from anomia.measure.between import BASE
from anomia.measure.frame import known
from anomia.measure.rates import Estimate, rate
from anomia.probes import OPTION_KINDS, OWN_COLUMN

# What `no_options` counts, by its name in provenance, files and tables.
NO_OPTIONS = {f"no_{kind.name}_options": kind for kind in OPTION_KINDS}
# The fields of a row that are shares with an interval.
RATES = ("loop_rate", "noise_open", "noise_choice", "dtype_open", "dtype_choice")


@dataclass(frozen=True, slots=True)
class HygieneRow:
    """What may spoil a comparison in one arm and language; counts of items except for `fertility`."""

    arm: str
    language: str
    items: int
    passages: int
    truncated: int
    """Passages that were truncated."""
    gold_truncated: int
    """Truncated passages that lost the gold answer."""
    boundary_mismatch: int
    """Options scored from before the end of the prompt."""
    unclosed_thinking: int
    not_finite: int
    degenerate: int
    """Open outputs that are empty or a single token."""
    rank_ties: int
    """Gold's first token shares its logit with another."""
    choice_ties: int
    """The two best options have equal scores."""
    no_distinct_token: int
    """Gold is a prefix of another option."""
    ungradable: int | None
    """Questions excluded because no answer can be graded."""
    no_options: Mapping[str, int | None]
    """Items without enough wrong options of this kind; without standard ones, questions are excluded."""
    overlapping_hard_distractors: int | None
    """Wrong answers that can't be hard options because they contain gold or are contained in it."""
    fertility: float | None
    """Tokens per word of the passages, or per character where words have no spaces."""
    fertility_unit: Literal["word", "character"] | None
    noise_items: int | None
    """Items that base was asked again at another batch size, for batch-size sensitivity."""
    noise_flips: int | None
    """Open and choice verdicts that changed at another batch size."""
    gold_in_question: int | None = None
    """Items whose answer is contained in the question."""
    gold_over_limit: int | None = None
    """Items whose accepted answers are all longer than `max_new_tokens`, so that open can't give them."""
    loops: int | None = None
    """Open outputs in which a piece of at most 16 tokens repeats over at least half of the output."""
    loop_rate: Estimate | None = None
    noise_open: Estimate | None = None
    """Share of base's open verdicts that changed at another batch size."""
    noise_choice: Estimate | None = None
    dtype_open: Estimate | None = None
    """The same in another dtype."""
    dtype_choice: Estimate | None = None

    def named(self) -> dict[str, Any]:
        """The fields by name, with the parts of `no_options` in its place."""
        found: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            found |= value if name == "no_options" else {name: value}
        return found


FIELDS: tuple[str, ...] = tuple(
    name
    for field in fields(HygieneRow)
    for name in (NO_OPTIONS if field.name == "no_options" else (field.name,))
)
"""The names in `HygieneRow.named`."""


def hygiene(
    records: pl.DataFrame,
    provenance: Mapping[str, Any] | None = None,
    noise: Mapping[str, Any] | None = None,
) -> list[HygieneRow]:
    """Counts by arm and language.

    provenance: from the run's study: excluded questions and token counts. noise: base's batch-size sensitivity.
    """
    found = provenance or {}
    batch, dtype = ((part or {}).get("languages", {}) for part in (noise, (noise or {}).get("dtype")))
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
        gold_in_question=_count("gold_in_question"),
        gold_over_limit=_count("gold_over_limit"),
        no_distinct_token=(pl.col("gold_rank").is_not_null() & pl.col("gold_distinct_rank").is_null()).sum(),
    )
    # By arm in order of appearance, then by language.
    place = {arm: n for n, arm in enumerate(records["arm"].unique(maintain_order=True))}
    rows = sorted(counted.iter_rows(named=True), key=lambda row: (place[row["arm"]], row["language"]))
    loops = _loops(records)
    own = _without_own(records)
    return [
        _row(
            row,
            found,
            own.get(row["language"]),
            batch.get(row["language"]) if row["arm"] == BASE else None,
            dtype.get(row["language"]) if row["arm"] == BASE else None,
            loops.get((row["arm"], row["language"])),
        )
        for row in rows
    ]


def _row(
    counts: Mapping[str, Any],
    provenance: Mapping[str, Any],
    own: int | None,
    batch: Mapping[str, int] | None,
    dtype: Mapping[str, int] | None,
    loops: Estimate | None,
) -> HygieneRow:
    language = counts["language"]
    excluded = provenance.get("excluded", {}).get(language, {})
    fertility = provenance.get("fertility", {}).get(language) or {}
    return HygieneRow(
        **counts,
        ungradable=excluded.get("ungradable"),
        no_options={name: own if kind.of_base else excluded.get(name) for name, kind in NO_OPTIONS.items()},
        overlapping_hard_distractors=excluded.get("overlapping_hard_distractors"),
        fertility=fertility.get("tokens_per_unit"),
        fertility_unit=fertility.get("unit"),
        noise_items=batch["items"] if batch else None,
        noise_flips=batch["open"] + batch["choice"] if batch else None,
        loops=round(loops.value * loops.n) if loops else None,
        loop_rate=loops,
        noise_open=_flipped(batch, "open"),
        noise_choice=_flipped(batch, "choice"),
        dtype_open=_flipped(dtype, "open"),
        dtype_choice=_flipped(dtype, "choice"),
    )


class Sensitivity(NamedTuple):
    """How many of base's replies change under a harmless change, over all languages: shares of the items asked again.

    change: `batch size 4`, or the name of another dtype. open, choice: verdicts that flip. texts: open texts
    that differ.
    """

    change: str
    open: Estimate | None
    choice: Estimate | None
    texts: Estimate | None


def sensitivities(noise: Mapping[str, Any] | None) -> list[Sensitivity]:
    """The sensitivities of base (`noise.json`): at another batch size and, if tried, in another dtype."""
    found = []
    for part in (noise, (noise or {}).get("dtype")):
        if not part:
            continue
        counts = {"items": part["items"], **part["flips"]}
        change = part["dtype"] if isinstance(part.get("dtype"), str) else f"batch size {part['batch_size']}"
        shares = (
            _flipped(counts, probe) if probe in counts else None for probe in ("open", "choice", "open_text")
        )
        found.append(Sensitivity(change, *shares))
    return found


def _flipped(counts: Mapping[str, int] | None, probe: str) -> Estimate | None:
    """The share of one probe's verdicts that changed."""
    return None if counts is None else rate(np.arange(counts["items"]) < counts[probe])


def _loops(records: pl.DataFrame) -> dict[tuple[str, str], Estimate | None]:
    """The share of open outputs that loop, by arm and language."""
    looked_at = known(records, ["open_loop"])
    groups = looked_at.group_by("arm", "language").agg("open_loop", "passage_id")
    return {(arm, language): rate(loops, passages) for arm, language, loops, passages in groups.iter_rows()}


def _without_own(records: pl.DataFrame) -> dict[str, int]:
    """The number of items for which no options can be made from base's answer, by language, where they were wanted."""
    if OWN_COLUMN not in records.columns:
        return {}
    asked = known(records.filter(pl.col("arm") == BASE), [OWN_COLUMN])
    counted = asked.group_by("language").agg((pl.col(OWN_COLUMN).list.len() == 0).sum())
    return {str(language): int(count) for language, count in counted.iter_rows()}


def _count(column: str) -> pl.Expr:
    """The number of marked items; null if no item was checked for the mark."""
    return pl.when(pl.col(column).is_not_null().any()).then(pl.col(column).sum())


def _tied(scores: pl.Series) -> pl.Series:
    """Whether the two best options have equal scores; false where nothing was scored."""
    return pl.Series([_equal(row) for row in scores.to_list()], dtype=pl.Boolean)


def _equal(scores: Sequence[float] | None) -> bool:
    if scores is None or len(scores) < 2:
        return False
    second, first = np.sort(scores)[-2:]
    return bool(first == second)
