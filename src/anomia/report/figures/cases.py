"""The cases that figures are drawn from: every arm of every run, under a safe and unique name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import altair as alt
import polars as pl

from anomia.compress.spec import parse_arm
from anomia.compress.steps import Arm, needs_calibration
from anomia.errors import AnomiaError
from anomia.locate.located import Located
from anomia.measure import measures
from anomia.measure.figures import Lookup, before, lookup
from anomia.measure.frame import POOLED
from anomia.measure.rates import Estimate
from anomia.measure.results import Results
from anomia.report.naming import printable
from anomia.report.reference import candidates, nulls

# Longer names would run into the plot; the tooltip and the table show them in full.
LONGEST_LABEL = 44
LONGEST_NAME = 200


class NamedRun(NamedTuple):
    """One run, with its name among other runs. located: where the damage is, of the arms for which it was located."""

    name: str
    results: Results
    located: tuple[Located, ...] = ()


class Drawn(NamedTuple):
    """A figure. caption: its data and method. alt: its content in words.

    table: the numbers drawn, one row per mark.
    """

    name: str
    title: str
    caption: str
    alt: str
    chart: alt.TopLevelMixin
    table: pl.DataFrame


class Case(NamedTuple):
    """One arm of one run. label: its name in figures, unique within a figure."""

    run: NamedRun
    arm: str
    label: str
    figures: Lookup
    calibration: str | None

    def accuracies(self, probe: str, scope: str) -> tuple[Estimate | None, Estimate | None]:
        """Accuracies of base and of the arm, over the items that the arm has answered."""
        measure = measures.accuracy(probe)
        return before(self.figures, self.arm, measure, scope), self.figures.get((self.arm, measure, scope))

    @property
    def nulls(self) -> list[str]:
        """The null arms of its run, which show the effect of noise alone."""
        return [arm for arm in nulls(self.run.results.arms) if arm != self.arm]

    @property
    def languages(self) -> list[str]:
        """The languages in which base and the arm were asked."""
        return self.run.results.languages

    @property
    def base(self) -> str:
        """The uncompressed model's name, without its path."""
        return _last(self.run.results.study.get("base", "?"))

    @property
    def data(self) -> str:
        """The data set's name, without its path."""
        return _data(self.run.results.study.get("data", "?"))


def cases(runs: Sequence[NamedRun]) -> list[Case]:
    """Every arm of every run except null arms, in order. Labels name the arm and whatever else distinguishes cases."""
    found = []
    for run in runs:
        figures = lookup(run.results.diagnosis.figures)
        for arm in candidates(run.results.arms):
            found.append(Case(run, arm, "", figures, _calibration(arm, run.results.study)))
    return [case._replace(label=label) for case, label in zip(found, _labels(found), strict=True)]


def scopes(case: Case) -> list[str]:
    """The languages of a case and, if there are several, `pooled` last."""
    return [*case.languages, POOLED] if len(case.languages) > 1 else list(case.languages)


def plain(text: Any, longest: int = LONGEST_NAME) -> str:
    """Text of models and data sets for a label: without control or direction characters, shortened in the middle.

    >>> plain("a\\x00b\\u202ec")
    'a b c'
    """
    kept = " ".join(printable(str(text)).split()) or "(no name)"
    if len(kept) <= longest:
        return kept
    head = (longest - 1) // 2
    return f"{kept[:head]}…{kept[head + 1 - longest :]}"


def same_but_calibration(found: Sequence[Case]) -> list[list[tuple[Case, str]]]:
    """Groups of cases that differ only in their calibration set, each case with the arm that its group shares."""
    groups: dict[tuple[Any, ...], list[tuple[Case, str]]] = {}
    for case in found:
        if case.calibration is None:
            continue
        arm = _uncalibrated(case.arm)
        study = case.run.results.study
        key = (study.get("base"), study.get("data"), tuple(case.languages), arm)
        groups.setdefault(key, []).append((case, plain(arm, LONGEST_LABEL)))
    return [group for group in groups.values() if len({case.calibration for case, _ in group}) > 1]


def _uncalibrated(arm: str) -> str:
    steps = parse_arm(arm).steps
    same = (
        replace(step, calibration=replace(step.calibration, source=None)) if needs_calibration(step) else step
        for step in steps
    )
    return str(Arm("", tuple(same)))


def _labels(found: Sequence[Case]) -> list[str]:
    parts: tuple[Callable[[Case], str], ...] = (
        lambda case: case.base,
        lambda case: case.data,
        lambda case: plain(case.arm),
    )
    telling = [part for part in parts if len({part(case) for case in found}) > 1] or [parts[-1]]
    labels = [" · ".join(part(case) for part in telling) for case in found]
    if len(set(labels)) < len(labels):
        labels = [
            f"{plain(case.run.name)} · {label}" if labels.count(label) > 1 else label
            for case, label in zip(found, labels, strict=True)
        ]
    return _unlike([plain(label, LONGEST_LABEL) for label in labels])


def _unlike(labels: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    made = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        made.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return made


def _calibration(arm: str, study: Mapping[str, Any]) -> str | None:
    """The calibration set of an arm: the last pruning step's own source, else the study's; None if it has none."""
    try:
        steps = [step for step in parse_arm(arm).steps if needs_calibration(step)]
    except AnomiaError:
        return None
    if not steps:
        return None
    return plain(steps[-1].calibration.source or study.get("calibration", "c4"))


def _last(name: Any) -> str:
    return plain(str(name).rstrip("/").rpartition("/")[2], LONGEST_LABEL)


def _data(name: Any) -> str:
    """`squad:PATH/tydiqa_goldp/dev` becomes `tydiqa_goldp/dev`: the last part alone is often just a split."""
    kind, colon, path = str(name).partition(":")
    return plain("/".join(path.rstrip("/").split("/")[-2:]) if colon else kind, LONGEST_LABEL)
