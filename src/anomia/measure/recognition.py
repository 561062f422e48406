"""Fates and dissociation rates of an arm, under every kind of options that recognition was tested with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomia.measure.comparisons import RECOGNITION
from anomia.measure.fates import FATES, FEWEST_BOTH_CORRECT, count_fates, fates
from anomia.measure.figures import Fates, Figure
from anomia.measure.frame import KEY, MEAN, POOLED, Bools, both, known, right, scopes
from anomia.measure.rates import mean_rate, rate


class Recognised(NamedTuple):
    """The figures and the counts."""

    figures: list[Figure]
    counts: list[Fates]


def recognition(arm: str, pairs: pl.DataFrame) -> Recognised:
    """Fates and dissociation, by language, pooled, and as a mean over the languages that have a rate."""
    figures, counts = [], []
    for options in RECOGNITION:
        part = known(pairs, both("open_correct", f"{options}_correct"))
        columns = [right(part, column) for column in _columns(options)]
        passages, labels = part["passage"].to_numpy(), part["language"].to_numpy()
        index = fates(*columns)
        unsaid = index == FATES.index("choice_only")
        enough = np.zeros(len(index), dtype=bool)
        left_out = []
        for scope, mask in scopes(part):
            counts.append(Fates(arm, options, scope, count_fates(*(column[mask] for column in columns))))
            followed = mask & (index >= 0)
            estimate = None
            if followed.sum() >= FEWEST_BOTH_CORRECT:
                estimate = rate(unsaid[followed], passages[followed])
            if scope != POOLED and estimate is None:
                left_out.append(scope)
            elif scope != POOLED:
                enough |= followed
            figures.append(Figure(arm, f"dissociation/{options}", scope, estimate))
        if len(index):
            mean = mean_rate(unsaid[enough], labels[enough], passages[enough])
            figures.append(Figure(arm, f"dissociation/{options}", MEAN, mean, tuple(left_out)))
    return Recognised(figures, counts)


def groups(pairs: pl.DataFrame) -> dict[str, Bools]:
    """The groups that ranks and probabilities are told by, as masks: all, what base fails, and the fates."""
    index = fate_index(pairs)
    graded = pairs["open_correct"].is_not_null().to_numpy()
    masks = {"all": np.ones(len(index), dtype=bool), "base_fails": graded & ~right(pairs, "open_correct")}
    return masks | {name: index == number for number, name in enumerate(FATES)}


def fate_index(pairs: pl.DataFrame) -> NDArray[np.int8]:
    """Fates under standard options as indices into `FATES`; −1 where there is none: [items]."""
    index = fates(*(right(pairs, column) for column in _columns("choice")))
    whole = pairs.select(pl.all_horizontal(pl.col(_columns("choice")).is_not_null())).to_series()
    return np.where(whole.to_numpy(), index, -1).astype(np.int8)


def with_fates(records: pl.DataFrame, *, base: str = "base") -> pl.DataFrame:
    """The records with a column `fate`: null for base, and where base fails the item in open or in choice."""
    verdicts = ["open_correct", "choice_correct"]
    before = records.filter(pl.col("arm") == base).select(*KEY, *verdicts)
    after = records.select(*KEY, *(pl.col(name).alias(f"{name}_arm") for name in verdicts))
    joined = after.join(before, on=KEY, how="left", maintain_order="left")
    arms = (records["arm"] != base).to_numpy()
    index = np.where(arms, fate_index(joined), -1)
    names = [FATES[i] if i >= 0 else None for i in index]
    return records.with_columns(fate=pl.Series(names, dtype=pl.String))


def _columns(options: str) -> list[str]:
    """Base's open, base's choice, the arm's open, the arm's choice."""
    return [f"{name}_correct{side}" for side in ("", "_arm") for name in ("open", options)]
