"""The tables that measuring a run yields: one long table of figures, and the tables that are not figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anomia.measure.contrasts import Agreement
from anomia.measure.fates import FateCounts, RightIn
from anomia.measure.measures import Measure, of_base, parse
from anomia.measure.rates import Estimate
from anomia.measure.significance import PairedTest


class Figure(NamedTuple):
    """One figure of one arm."""

    arm: str
    measure: Measure
    """Named in docs/results.md."""
    scope: str
    """A language, `pooled` (all items as one) or `mean` (over languages)."""
    estimate: Estimate | None
    excluded: tuple[str, ...] = ()
    """For a mean: the languages excluded because the figure can't be given or base is too weak there."""


class Fates(NamedTuple):
    """What became of the items that base gets right in both open and choice: counts."""

    arm: str
    options: str
    """How recognition was tested: a kind of options and a scoring, as in `choice_passage_pmi`."""
    scope: str
    counts: FateCounts


class TransitionRow(NamedTuple):
    """The states in the arm of the items that have one state in base: counts."""

    arm: str
    options: str
    scope: str
    before: RightIn
    """Their state in base: right in both formats, in one, or in neither."""
    both: int
    choice_only: int
    open_only: int
    neither: int


@dataclass(frozen=True, slots=True)
class RankRow:
    """Ranks of one token in one group of items, in base (`before`) or in the arm (`after`)."""

    arm: str
    place: str
    """`gold`, `gold_distinct`, `control` or `control_distinct`."""
    when: str
    group: str
    """A fate, `base_fails` or `all`."""
    scope: str
    n: int
    median: float
    """Of mid-ranks: tied tokens share the middle of their ranks."""
    lower_quartile: float
    upper_quartile: float
    vocabulary_share: float | None
    """The median over the size of the vocabulary."""
    within_10: float
    within_100: float
    median_margin: float
    """Logit of the likeliest token − that of this token."""
    tied: int
    """Items whose token shares its logit with another."""
    median_interval: Estimate | None = None
    """The median with its interval; null for too few items, like the other medians' intervals."""
    within_10_interval: Estimate | None = None
    within_100_interval: Estimate | None = None
    margin_interval: Estimate | None = None


@dataclass(frozen=True, slots=True)
class LogProbRow:
    """Log-probability of the whole gold answer, in nats, in one group of items."""

    arm: str
    group: str
    """`all`, `base_fails`, or a fate."""
    scope: str
    n: int
    before: float
    """Median in base."""
    after: float
    """Median in the arm."""
    change: Estimate | None
    """Mean of after − before."""


@dataclass(frozen=True, slots=True)
class PairedTestRow:
    """A paired test."""

    arm: str
    measure: str
    scope: str
    test: PairedTest
    adjusted: float | None
    """Holm's p-value within the family; null for `pooled`, which is not part of it."""
    family: str


@dataclass(frozen=True, slots=True)
class DivergenceRow:
    """KL(base ‖ arm) in nats."""

    arm: str
    scope: str
    n: int
    median: float
    upper_decile: float
    """The 90 % quantile."""
    largest_tail: float
    """Base's largest probability of the unstored tokens."""
    median_interval: Estimate | None = None
    """The median with its interval; null for too few items, like that of the 90 % quantile."""
    upper_decile_interval: Estimate | None = None


@dataclass(frozen=True, slots=True)
class GradingRow:
    """Whether containment, exact match and token F1 show open falling, rising or neither, by their intervals."""

    arm: str
    scope: str
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class BetweenRow:
    """A figure of `arm` − that of `other`, on the items that both answered."""

    arm: str
    other: str
    measure: Measure
    scope: str
    estimate: Estimate | None
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FrontierRow:
    """Accuracy over all items against measured sparsity and size on disk."""

    arm: str
    sparsity: float | None
    """Zeros over weights, in all pruned matrices; null if the run pruned nothing."""
    size_bytes: int | None
    """Of the weights as stored; null if unknown."""
    open: Estimate
    choice: Estimate
    open_frontier: bool | None
    """No arm is as sparse and better in open, or as good and sparser; null without sparsity."""
    choice_frontier: bool | None
    open_size_frontier: bool | None
    """No arm is as small and better in open, or as good and smaller; null without a size."""
    choice_size_frontier: bool | None


@dataclass(frozen=True, slots=True)
class DamageRow:
    """One stretch of long answers: positions `first` to `last` (exclusive), counted in tokens from 0.

    The figures along base's answer cover the items whose answer in base reaches the stretch; each item counts once.
    """

    arm: str
    scope: str
    first: int
    last: int
    top: Estimate | None
    """Base's tokens that the arm ranks first, too."""
    demoted: Estimate | None
    """Base's tokens that the arm ranks 2 to 10."""
    lost: Estimate | None
    """Base's tokens that the arm ranks below 10."""
    kl: Estimate | None
    """Mean KL(base ‖ arm) of the next token, in nats."""
    followed: Estimate | None
    """Free answers that equal base's from the start to the end of the stretch."""
    derailed: Estimate | None
    """Free answers of the arm that have, before the end of the stretch, begun to loop or passed base's end never to
    end.
    """
    derailed_more: Estimate | None
    """How many more than base's, which derail only by looping."""


class Diagnosis(NamedTuple):
    """Everything computed from the records of one data set."""

    figures: tuple[Figure, ...]
    fates: tuple[Fates, ...]
    ranks: tuple[RankRow, ...] = ()
    log_probs: tuple[LogProbRow, ...] = ()
    tests: tuple[PairedTestRow, ...] = ()
    divergence: tuple[DivergenceRow, ...] = ()
    gradings: tuple[GradingRow, ...] = ()
    between: tuple[BetweenRow, ...] = ()
    transitions: tuple[TransitionRow, ...] = ()
    damage: tuple[DamageRow, ...] = ()


class Lookup(Mapping[tuple[str, Measure, str], Estimate | None]):
    """Estimates by arm, measure and scope; None or absent if a figure can't be given or was not asked.

    Raises:
        RunError: on looking up a measure that doesn't exist.
    """

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._found = {(figure.arm, figure.measure, figure.scope): figure.estimate for figure in figures}

    def __getitem__(self, key: tuple[str, Measure, str]) -> Estimate | None:
        arm, measure, scope = key
        return self._found[arm, parse(measure), scope]

    def __iter__(self) -> Iterator[tuple[str, Measure, str]]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def before(figures: Lookup, arm: str, measure: Measure, scope: str, *, base: str = "base") -> Estimate | None:
    """Base's figure to show next to an arm's: over the arm's items if the arm answered fewer than base."""
    same_items = arm, of_base(measure), scope
    return figures[same_items] if same_items in figures else figures.get((base, measure, scope))


def lookup(figures: Sequence[Figure]) -> Lookup:
    """Figures by (arm, measure, scope), for many lookups."""
    return Lookup(figures)


def find(figures: Sequence[Figure], arm: str, measure: str, scope: str) -> Estimate | None:
    """The estimate of one figure; None if it was not asked or can't be given.

    Raises:
        RunError: there is no such measure.
    """
    key = arm, parse(measure), scope
    return next((f.estimate for f in figures if (f.arm, f.measure, f.scope) == key), None)
