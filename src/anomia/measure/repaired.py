"""How much of what compression took a repair gives back: rho = (repaired − compressed)/(base − compressed), paired."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from anomia.compress.spec import parse_arm, uncalibrated, unrepaired
from anomia.compress.steps import Checkpoint, Take
from anomia.errors import StudyError
from anomia.items.languages import language_name
from anomia.measure.bootstrap import FloatArray
from anomia.measure.frame import CHECKS, KEY, Bools, arms_of, pair, prepare, right, scopes
from anomia.measure.paired import paired_difference
from anomia.measure.rates import CHECKED_EVENTS, Estimate, cluster, student
from anomia.probes import BY_NAME, CHOICES, FORMATS

METHOD = "Fieller over passages"
HALF = 0.5
UNSEEN = "unseen: "
"""How a scope begins that is about languages without calibration text; their names follow."""


class RepairedRow(NamedTuple):
    """What a repaired arm gives back of the answers that the same arm without repair has lost.

    base, compressed, repaired: the share of right answers of each, on items that all three answered.
    returned: items that base gets right, compression lost and repair gives back; spoiled: those that compression kept
    and repair loses. change: repaired − compressed, paired. estimate: rho; None where compression took nothing for
    certain.
    """

    arm: str
    compressed_arm: str
    probe: str
    scope: str
    n: int
    base: float
    compressed: float
    repaired: float
    returned: int
    spoiled: int
    change: Estimate | None
    estimate: Estimate | None

    @property
    def half_is_back(self) -> bool:
        """Whether the interval's lower bound says that at least half is given back."""
        return self.estimate is not None and self.estimate.low >= HALF


def repaired_rows(
    records: pl.DataFrame,
    made: Mapping[str, str] | None = None,
    calibrated: Mapping[str, Collection[str]] | None = None,
) -> list[RepairedRow]:
    """Rows for every arm that is another arm repaired or calibrated on base's answers, by probe, language, and pooled.

    Where some languages of the run aren't among those of the arm's calibration text, a last row is about these alone.
    made: the steps with which checkpoints were made from base, by arm. calibrated: languages of its text, by arm.
    """
    records, arms = prepare(records), arms_of(records)
    found: list[RepairedRow] = []
    for arm in arms:
        compressed = _without_repair(arm, arms, made or {})
        if compressed is not None:
            found += _rows(records, arm, compressed, (calibrated or {}).get(arm, ()))
    return found


def _without_repair(arm: str, arms: Sequence[str], made: Mapping[str, str]) -> str | None:
    """The arm of which another one is the repaired form; checkpoints count as what they were made with."""
    others = [other for other in arms if other != arm]
    # A checkpoint by its own name, and by its steps; its folder may be written in another way there.
    known = {_by_place(name): other for other in others for name in (other, made.get(other, other))}
    wanted = _by_place(made.get(arm, arm))
    for find in (unrepaired, uncalibrated):
        if (name := find(wanted, list(known))) is not None:
            return known[name]
    return None


def _by_place(arm: str) -> str:
    """The text of an arm with whole paths of folders."""
    try:
        parsed = parse_arm(arm)
    except StudyError:
        return arm
    steps = [
        replace(step, model=str(Path(step.model).expanduser().resolve()))
        if isinstance(step, Checkpoint | Take) and Path(step.model).expanduser().is_dir()
        else step
        for step in parsed.steps
    ]
    return str(replace(parsed, steps=tuple(steps))) if steps else arm


def share_repaired(
    base: ArrayLike,
    compressed: ArrayLike,
    repaired: ArrayLike,
    passages: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Estimate | None:
    """rho with its interval, from right or wrong of the same items in three models: [items] each.

    The interval is Fieller's (1954) for a ratio of two means over passages: all r for which repaired − compressed − r ·
    (base − compressed) has a mean that differs from 0 by no more than Student's t allows. One item more that is given
    back and one more that is lost are added, as for differences of paired shares (Agresti and Min 2005), so that few
    changes don't look certain. None if base − compressed isn't above 0 at that level, since any rho would do then.

    passages: [items]; None for one item each.
    """
    before, lost, after = (np.asarray(each, dtype=np.float64) for each in (base, compressed, repaired))
    groups = cluster(passages, len(before))
    if groups.count < 2:
        return None
    gained = np.append(_sums(after - lost, groups.index, groups.count), [1.0, -1.0])
    taken = np.append(_sums(before - lost, groups.index, groups.count), [0.0, 0.0])
    ends = _fieller(gained, taken, level)
    if ends is None:
        return None
    events = int(((after != lost) | (before != lost)).sum())
    value = float((after - lost).sum() / (before - lost).sum())
    return Estimate(
        value,
        min(ends[0], value),
        max(ends[1], value),
        len(before),
        groups.count,
        METHOD,
        events >= 2 * CHECKED_EVENTS,
    )


def _fieller(over: FloatArray, under: FloatArray, level: float) -> tuple[float, float] | None:
    """The interval of a ratio of two means: [clusters] each; None if the lower mean isn't above 0 at the level."""
    count = len(over)
    bound = student(count - 1, level) ** 2 / count
    mean_over, mean_under = float(over.mean()), float(under.mean())
    spread = np.cov(over, under)  # [2, 2]
    # mean² − bound · variance of over − r · under is at most 0 for the r inside: a·r² − 2·b·r + c ≤ 0.
    a = mean_under**2 - bound * float(spread[1, 1])
    b = mean_over * mean_under - bound * float(spread[0, 1])
    c = mean_over**2 - bound * float(spread[0, 0])
    if mean_under <= 0 or a <= 0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a


def _sums(values: FloatArray, index: NDArray[np.intp], count: int) -> FloatArray:
    return np.bincount(index, weights=values, minlength=count).astype(np.float64)


def _probes(frame: pl.DataFrame) -> Sequence[tuple[str, str]]:
    """The free-form answer, and choice by all options and scorings, as far as they were asked, with their columns."""
    columns = [
        *((name, BY_NAME[name].column) for name in (*FORMATS, *CHOICES)),
        ("choice_pmi", CHECKS["pmi"].column),
    ]
    asked = [(name, column) for name, column in columns if column in frame.columns]
    return [(name, column) for name, column in dict(asked).items() if frame[column].null_count() < len(frame)]


def _scopes(frame: pl.DataFrame, seen: Collection[str]) -> Iterator[tuple[str, Bools]]:
    """The scopes, and last the languages that the calibration never saw, if any: [items] each."""
    yield from scopes(frame)
    unseen = sorted({label for label in frame["language"].to_list() if language_name(label) not in seen})
    if seen and unseen:
        yield UNSEEN + ", ".join(unseen), frame["language"].is_in(unseen).to_numpy()


def _rows(records: pl.DataFrame, arm: str, compressed: str, seen: Collection[str]) -> Iterator[RepairedRow]:
    after, lost = (pair(records, name) for name in (arm, compressed))
    for probe, column in _probes(after):
        other = lost.select(*KEY, pl.col(f"{column}_arm").alias("compressed"))
        both = after.join(other, on=KEY, maintain_order="left").filter(
            pl.all_horizontal(pl.col(column, f"{column}_arm", "compressed").is_not_null())
        )
        base, found, had = (right(both, name) for name in (column, f"{column}_arm", "compressed"))
        passages = both["passage"].to_numpy()
        for scope, mask in _scopes(both, seen):
            yield RepairedRow(
                arm,
                compressed,
                probe,
                scope,
                n=int(mask.sum()),
                base=float(base[mask].mean()),
                compressed=float(had[mask].mean()),
                repaired=float(found[mask].mean()),
                returned=int((mask & base & ~had & found).sum()),
                spoiled=int((mask & base & had & ~found).sum()),
                change=paired_difference(found[mask], had[mask], passages[mask]),
                estimate=share_repaired(base[mask], had[mask], found[mask], passages[mask]),
            )
