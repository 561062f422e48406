"""What the measures of a run yield: one long table of figures, and the tables that are no figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anomia.measure.contrasts import Agreement
from anomia.measure.fates import FateCounts
from anomia.measure.measures import Measure, of_base, parse
from anomia.measure.rates import Estimate
from anomia.measure.significance import PairedTest


class Figure(NamedTuple):
    """One figure of one arm. `estimate` is None where it can't be given (too few items, base too weak).

    left_out: of a mean over languages, those that it leaves out: the figure can't be given there, or base is too
    weak there for the pooled figures.
    """

    arm: str
    measure: Measure
    scope: str
    estimate: Estimate | None
    left_out: tuple[str, ...] = ()


class Fates(NamedTuple):
    """Counts of fates in one language, or `pooled`. options: how recognition was tested, a name of `RECOGNITION`."""

    arm: str
    options: str
    scope: str
    counts: FateCounts


class TransitionRow(NamedTuple):
    """Where the items in one state of base ended up in the arm. before: the state in base; the counts are the arm's."""

    arm: str
    options: str
    scope: str
    before: str
    both: int
    choice_only: int
    open_only: int
    neither: int


@dataclass(frozen=True, slots=True)
class RankRow:
    """Ranks of one token among one group of items, in base (`before`) or in the arm (`after`).

    place: gold, gold_distinct, foil or foil_distinct. group: a fate, `base_fails` (items that base does not
    answer in open) or `all`. Ranks are mid-ranks. vocabulary_share: the median over the vocabulary's size.
    median_margin: logit of the likeliest token − the token's. tied: items whose token shares its logit.
    …_interval: the same figure with its interval; None for a median of too few items.
    """

    arm: str
    place: str
    when: str
    group: str
    scope: str
    n: int
    median: float
    lower_quartile: float
    upper_quartile: float
    vocabulary_share: float | None
    within_10: float
    within_100: float
    median_margin: float
    tied: int
    median_interval: Estimate | None = None
    within_10_interval: Estimate | None = None
    within_100_interval: Estimate | None = None
    margin_interval: Estimate | None = None


@dataclass(frozen=True, slots=True)
class LogProbRow:
    """Log-probability of the whole gold answer, in nats, of one group of items: medians and the mean change."""

    arm: str
    group: str
    scope: str
    n: int
    before: float
    after: float
    change: Estimate | None


@dataclass(frozen=True, slots=True)
class PairedTestRow:
    """A test of one arm in one scope. adjusted: Holm's p-value within `family`; None for `pooled`."""

    arm: str
    measure: str
    scope: str
    test: PairedTest
    adjusted: float | None
    family: str


@dataclass(frozen=True, slots=True)
class DivergenceRow:
    """KL(base ‖ arm) in nats: median, 90 % quantile, and base's largest probability outside what is stored.

    median_interval, upper_decile_interval: the quantiles with their intervals; None for too few items.
    """

    arm: str
    scope: str
    n: int
    median: float
    upper_decile: float
    largest_tail: float
    median_interval: Estimate | None = None
    upper_decile_interval: Estimate | None = None


@dataclass(frozen=True, slots=True)
class GradingRow:
    """Whether containment, exact match and token F1 see open fall, rise or neither, by their intervals."""

    arm: str
    scope: str
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class BetweenRow:
    """A figure of `arm` − the same of `other`, on the items that both were asked; `left_out` as in `Figure`."""

    arm: str
    other: str
    measure: Measure
    scope: str
    estimate: Estimate | None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FrontierRow:
    """An arm on the planes of sparsity, or of size on disk, and accuracy over all items.

    sparsity: zeros over pruned weights, as measured. size_bytes: of the weights as they are stored. Either
    is None where it isn't known. open_frontier, choice_frontier: no arm is as sparse and better, or as good
    and sparser; open_size_frontier, choice_size_frontier: the same of size. None with what they rest on.
    """

    arm: str
    sparsity: float | None
    size_bytes: int | None
    open: Estimate
    choice: Estimate
    open_frontier: bool | None
    choice_frontier: bool | None
    open_size_frontier: bool | None
    choice_size_frontier: bool | None


class Diagnosis(NamedTuple):
    """Everything that is computed from the records of one data set."""

    figures: tuple[Figure, ...]
    fates: tuple[Fates, ...]
    ranks: tuple[RankRow, ...] = ()
    log_probs: tuple[LogProbRow, ...] = ()
    tests: tuple[PairedTestRow, ...] = ()
    divergence: tuple[DivergenceRow, ...] = ()
    gradings: tuple[GradingRow, ...] = ()
    between: tuple[BetweenRow, ...] = ()
    transitions: tuple[TransitionRow, ...] = ()


class Lookup(Mapping[tuple[str, str, str], Estimate | None]):
    """Estimates by arm, measure and scope; None, or absent, where a figure can't be given or was not asked.

    Raises:
        RunError: on looking up a measure that there is none of by this name.
    """

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._found = {(figure.arm, str(figure.measure), figure.scope): figure.estimate for figure in figures}

    def __getitem__(self, key: tuple[str, str, str]) -> Estimate | None:
        arm, measure, scope = key
        return self._found[arm, str(parse(measure)), scope]

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def before(figures: Lookup, arm: str, measure: str, scope: str, *, base: str = "base") -> Estimate | None:
    """Base's figure beside an arm's: over the arm's items, where the arm has answered fewer than base."""
    same_items = arm, of_base(parse(measure)), scope
    return figures[same_items] if same_items in figures else figures.get((base, measure, scope))


def lookup(figures: Sequence[Figure]) -> Lookup:
    """Figures by (arm, measure, scope), for those who need many."""
    return Lookup(figures)


def find(figures: Sequence[Figure], arm: str, measure: str, scope: str) -> Estimate | None:
    """The estimate of one figure, None where it was not asked or can't be given.

    Raises:
        RunError: there is no such measure.
    """
    key = arm, parse(measure), scope
    return next((f.estimate for f in figures if (f.arm, f.measure, f.scope) == key), None)
