"""Records ready for the measures: passages numbered, arms paired with base by item, oracle recovery in one column."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomia.measure.drops import QUARTER
from anomia.measure.passages import passage_numbers
from anomia.probes import (
    BY_NAME,
    CHOICES,
    CONTINUATION,
    NO_QUESTION,
    NO_QUESTION_ENDING,
    OPTION_KINDS,
    ORACLES,
    SAMPLED,
    SCORINGS,
    STANDARD,
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

# The key that joins the rows of two arms.
KEY = ["dataset", "language", "item_id"]
POOLED, MEAN = "pooled", "mean"
# Lists make up most of a record; the measures read only these.
_LISTS = (
    "choice_scores", "top_log_probs", "open_parts",
    *(column for name in SAMPLED for column in (BY_NAME[name].column, BY_NAME[name].each("seeds"))),
    *(f"{CONTINUATION}_{name}" for name in ("ids", "ranks", "kl", "top1", "end_log_probs")),
)  # fmt: skip


class Recognition(NamedTuple):
    """One way to test recognition: a kind of options under one scoring.

    name: in measures, as in `gap/choice_passage_pmi`. column: right or wrong, in the records. floor: the column with
    what guessing scores.
    """

    name: str
    kind: str
    scoring: str
    column: str
    floor: str


RECOGNITION = {
    way.name: way
    for kind in CHOICES
    for scoring in SCORINGS
    for way in (
        Recognition(
            kind if scoring.name == "sum" else f"{kind}_{scoring.name}",
            kind,
            scoring.name,
            f"{kind}_correct{scoring.ending}",
            f"{kind}_floor",
        ),
    )
}


class CheckKind(NamedTuple):
    """Another way in which a choice-only item may be picked.

    column: whether it is, in the records. words: how it is picked. row, header: what a table says of these items.
    """

    name: str
    column: str
    words: str
    row: str
    header: str


CHECKS = {
    check.name: check
    for check in (
        CheckKind(
            "no_question", f"choice{NO_QUESTION_ENDING}_correct", "without the question",
            "picked without the question, too", "picked without the question",
        ),
        CheckKind(
            "string", "string_presence", "by searching the passage",
            "picked by always taking the option that appears in the passage", "string found",
        ),
        *(
            CheckKind(
                kind.name, f"{kind.probe}_correct", f"among {kind.long}",
                f"picked among {kind.long}, too", f"picked in {kind.short}",
            )
            for kind in OPTION_KINDS
            if kind.decides and kind.name != STANDARD
        ),
        CheckKind("pmi", "choice_correct_pmi", "under PMI scoring", "picked by PMI, too", "picked by PMI"),
    )
}  # fmt: skip


def prepare(records: pl.DataFrame) -> pl.DataFrame:
    """The columns of the records that measures read, with `passage` (a number) and what broader decoding found.

    oracle_beams, oracle_samples: whether any beam or sample contains a gold answer (with several seeds: the share of
    seeds); control_beams, control_samples: the same for the control. Null if the item was not asked.
    oracle_greedy: open's verdict on the items that were asked.
    choice_floor, choice_hard_floor, …: what guessing scores, 1 over the number of options.
    open_floor: the same for the free-form answer: 0, or 1 over the number of options that its prompt lists.
    pooled: whether the row's language counts in pooled figures; true for all until `pool` changes it.
    """
    records = records.with_columns(passage=pl.Series(passage_numbers(records)), pooled=pl.lit(True))
    records = records.with_columns(
        _found(records, name, hits).alias(f"{made}_{name}")
        for name in ORACLES
        for made, hits in (("oracle", f"{name}_correct"), ("control", f"{name}_control"))
    )
    floors = {f"{name}_floor": _floor(records, name) for name in (*CHOICES, *NO_QUESTION)}
    records = records.with_columns(**floors, open_floor=_open_floor(records))
    asked = pl.any_horizontal(pl.col(f"oracle_{name}").is_not_null() for name in ORACLES)
    records = records.with_columns(oracle_greedy=pl.when(asked).then(pl.col("open_correct")))
    kept = ("arm", "open_text", *KEY)
    texts = [name for name, kind in records.schema.items() if kind == pl.String and name not in kept]
    lists = [name for name, kind in records.schema.items() if kind == pl.List and name not in _LISTS]
    return records.drop(texts + lists)


def pool(records: pl.DataFrame, languages: Collection[str]) -> pl.DataFrame:
    """The records with `pooled` true in these languages only."""
    return records.with_columns(pooled=pl.col("language").is_in(list(languages)))


def pooled_languages(frame: pl.DataFrame) -> list[str]:
    """The languages that count in pooled figures, by name."""
    return sorted(frame.filter(pl.col("pooled"))["language"].unique())


def pair(records: pl.DataFrame, arm: str, *, base: str = "base") -> pl.DataFrame:
    """Base's rows joined with the arm's by item; the arm's columns end in `_arm`."""
    before, after = (records.filter(pl.col("arm") == name) for name in (base, arm))
    return before.join(after, on=KEY, suffix="_arm", maintain_order="left")


def arms_of(records: pl.DataFrame, *, base: str = "base") -> list[str]:
    """The measured arms, without base."""
    return [arm for arm in records["arm"].unique(maintain_order=True) if arm != base]


def known(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The rows in which none of the columns is null."""
    return frame.filter(pl.all_horizontal(pl.col(list(columns)).is_not_null()))


def both(*columns: str) -> list[str]:
    """The names of columns in base and in the arm of a pair."""
    return [f"{column}{side}" for column in columns for side in ("", "_arm")]


def floats(frame: pl.DataFrame, column: str) -> Floats:
    """A column of verdicts or grades: [items]."""
    return frame[column].cast(pl.Float64).to_numpy()


def right(frame: pl.DataFrame, column: str) -> Bools:
    """A column of verdicts; ungraded items count as wrong: [items]."""
    return frame[column].fill_null(False).to_numpy().astype(bool)


def scopes(frame: pl.DataFrame) -> Iterator[tuple[str, Bools]]:
    """Each language, by name, and last `pooled`, as masks over the rows: [items]; nothing if there are no rows.

    `pooled` covers the languages that the column `pooled` marks, so that all figures on a page have the same scope.
    """
    if frame.is_empty():
        return
    labels = frame["language"].to_numpy()
    for language in sorted(set(labels.tolist())):
        yield str(language), labels == language
    marked = frame["pooled"].to_numpy()
    if marked.any():
        yield POOLED, marked


def _floor(records: pl.DataFrame, name: str) -> pl.Expr:
    """1 over the number of scored options; 1/4 where a row doesn't record them."""
    if f"{name}_scores" not in records.columns:
        return pl.lit(QUARTER)
    options = pl.col(f"{name}_scores").list.len()
    return pl.when(options > 0).then(1.0 / options).otherwise(QUARTER)


def _open_floor(records: pl.DataFrame) -> pl.Expr:
    """1 over the number of options that the prompt lists; 0 where it lists none or an older record doesn't say."""
    if "open_options" not in records.columns:
        return pl.lit(0.0)
    options = pl.col("open_options")
    return pl.when(options > 0).then(1.0 / options).otherwise(0.0)


def _found(records: pl.DataFrame, name: str, column: str) -> pl.Expr:
    """Whether any beam or sample hits; for samples, the share of seeds that do."""
    if name in SAMPLED:
        return pl.lit(_share_of_seeds(records, column, BY_NAME[name].each("seeds")))
    return pl.col(column).list.any().cast(pl.Float64)


def _share_of_seeds(records: pl.DataFrame, column: str, seeds: str) -> pl.Series:
    """For each row, the share of seeds with at least one hit among their samples; null if no samples were drawn."""
    samples = (
        records.select(seed=seeds, hit=column)
        .with_row_index("row")
        .filter(pl.col("hit").list.len() > 0)
        .explode("seed", "hit")
    )
    shares = (
        samples.group_by("row", "seed")
        .agg(pl.col("hit").any())
        .group_by("row")
        .agg(pl.col("hit").cast(pl.Float64).mean())
    )
    rows = pl.DataFrame({"row": pl.arange(len(records), eager=True, dtype=pl.UInt32)})
    return rows.join(shares, on="row", how="left", maintain_order="left")["hit"].rename(column)
