"""Columns that runs of earlier versions lack, computed from what those runs recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from anomia.measure.frame import KEY
from anomia.probes import CHOICES, OPTION_KINDS

_OPTIONS = {kind.probe: kind.column for kind in OPTION_KINDS}


def with_scorings(records: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The records with scores per character and by PMI wherever the recorded sums allow them.

    items: rows of `anomia.records.ITEM_SCHEMA`, which name the scored options. Recorded values stay as they are.
    """
    lacking = [
        (kind, ending)
        for kind in CHOICES
        for ending, needed in (("_per_char", f"{kind}_scores"), ("_pmi", f"{kind}_no_question_scores"))
        if _lacks(records, f"{kind}_correct{ending}", needed)
    ]
    if not lacking:
        return records
    columns = [*KEY, *{_OPTIONS[kind] for kind, _ in lacking}]
    joined = records.select(*KEY).join(items.select(columns), on=KEY, how="left", maintain_order="left")
    golds = records["gold"].to_list()
    added = []
    for kind, ending in lacking:
        options = joined[_OPTIONS[kind]].to_list()
        sums = records[f"{kind}_scores"].to_list()
        without = records[f"{kind}_no_question_scores"].to_list()
        scores = [
            _scored(ending, *row) if row[0] is not None and row[1] is not None else None
            for row in zip(sums, options, without, strict=True)
        ]
        right = [
            None if each is None else texts[_argmax(each)] == gold
            for each, texts, gold in zip(scores, options, golds, strict=True)
        ]
        for name, values, kind_of in (
            (f"{kind}_scores{ending}", scores, pl.List(pl.Float64)),
            (f"{kind}_correct{ending}", right, pl.Boolean),
        ):
            added.append(pl.coalesce(pl.col(name), pl.Series(name, values, dtype=kind_of)).alias(name))
    return records.with_columns(added)


def _lacks(records: pl.DataFrame, column: str, needed: str) -> bool:
    return not records.filter(pl.col(column).is_null() & pl.col(needed).is_not_null()).is_empty()


def _scored(
    ending: str, sums: Sequence[float], options: Sequence[str], without: Sequence[float] | None
) -> list[float] | None:
    if len(sums) != len(options):
        return None
    if ending == "_per_char":
        return [total / len(text) for total, text in zip(sums, options, strict=True)]
    if without is None or len(without) != len(sums):
        return None
    return [one - other for one, other in zip(sums, without, strict=True)]


def _argmax(values: Sequence[float]) -> int:
    best: Callable[[int], Any] = values.__getitem__
    return max(range(len(values)), key=best)
