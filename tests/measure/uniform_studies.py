"""Whole studies of known truth in several languages, and what the product concludes from each.

The figures are those of `everywhere.everywhere_levels`, computed for many studies at once: drawing, bounds, choice
of interval and decision are the product's own functions, and a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomia.measure.bootstrap import Resampling, Stratum, bca_levels, resample, totals
from anomia.measure.dissociation import Answers, net_dissociation
from anomia.measure.drops import QUARTER
from anomia.measure.evidence import ALPHA, GAP_ALPHA, _Claim, apart, holm_stands, levels_of
from anomia.measure.fates import counts_of, fates, met
from anomia.measure.intervals import BCA_ALONE, Range, choose, inside, join, range_apart
from anomia.measure.outcomes import Outcome
from anomia.measure.quantities import Quantity, normalized
from anomia.measure.rates import Estimate, rate
from anomia.measure.verdict import CLAIMS, Evidence, decide

from .simulation import Cell, draw_pairs, effective_changes

Floats = NDArray[np.float64]
Ids = NDArray[np.intp]
Found = dict[str, Estimate | None]

LEVEL = 0.95
# Fewer than a study's 10,000: the error of a bound's place averages out over the studies.
DRAWS = 2_000
CHUNK = 100
# Outcomes that say which of the two formats lost more.
DIRECTIONAL: frozenset[Outcome] = frozenset({"illusion", "demotion", "mixed", "reverse"})


class Design(NamedTuple):
    """What is asked: so many items in each language, in passages of `cluster_size`."""

    languages: int
    items: int = 200
    cluster_size: int = 1
    correlation: float = 0.0

    @property
    def labels(self) -> list[str]:
        return [f"language {number}" for number in range(self.languages) for _ in range(self.items)]

    @property
    def passages(self) -> Ids:
        return np.arange(self.languages * self.items) // self.cluster_size


class Truth(NamedTuple):
    """Normalized drops, and the share of items that flip besides, as many in one direction as in the other."""

    open_drop: float
    choice_drop: float
    open_churn: float = 0.0
    choice_churn: float = 0.0
    base_open: float = 0.47
    base_choice: float = 0.90

    def cells(self, design: Design) -> tuple[Cell, Cell]:
        """The truth of open and that of choice."""
        shape = (design.languages * design.items, design.cluster_size, design.correlation)
        height = self.base_choice - QUARTER
        return (
            _cell(shape, self.base_open, self.open_drop * self.base_open, self.open_churn),
            _cell(shape, self.base_choice, self.choice_drop * height, self.choice_churn),
        )


def _cell(shape: tuple[int, int, float], base: float, drop: float, churn: float) -> Cell:
    changed = drop + churn
    cell = Cell(*shape, base, changed, (drop + churn / 2) / changed if changed else 0.0)
    if not cell.possible:
        raise ValueError(f"so many items can't flip: {cell}")
    return cell


def draw_studies(truth: Truth, design: Design, studies: int, generator: np.random.Generator) -> Answers:
    """Right or wrong of base and the arm: [items, studies] each. Open and choice are independent."""
    opened, chosen = truth.cells(design)
    return Answers(*draw_pairs(opened, studies, generator), *draw_pairs(chosen, studies, generator))


# Quantities that are no difference, of one study's answers.
LEAVES: Mapping[str, Callable[[Answers, Ids | None], Quantity]] = {
    "open": lambda answers, passages: normalized(answers.base_open, answers.arm_open, passages, floor=0.0),
    "choice": lambda answers, passages: normalized(
        answers.base_choice, answers.arm_choice, passages, floor=QUARTER
    ),
    "net": net_dissociation,
}
# Differences of leaves.
DIFFERENCES = {"gap": ("open", "choice")}


def _all_at_once(name: str, answers: Answers) -> Quantity:
    """A leaf of [items, studies] as if these were one long study: its columns and what changed are by item."""
    return LEAVES[name](Answers(*(np.ravel(column) for column in answers)), None)


class Sums(NamedTuple):
    """Sums over the items of a scope: [studies, C], [draws, studies, C], [passages, studies, C]; its strata."""

    observed: Floats
    drawn: Floats
    without: Floats
    strata: Sequence[Ids]


def language_sums(resampling: Resampling, columns: Floats) -> list[Sums]:
    """What `bootstrap.totals` gives in each language, without the empty cells of the others."""
    found = []
    for number, stratum in enumerate(resampling.strata):
        mine = resampling.language == number
        passage = resampling.passage[mine]
        every = np.arange(len(stratum.passages))
        alone = Resampling(
            (resampling.languages[number],),
            np.zeros(len(passage), dtype=np.intp),
            passage - passage.min(),
            len(every),
            (Stratum(np.array([0]), every, stratum.weights),),
        )
        found.append(Sums(*(part[..., 0, :, :] for part in totals(alone, columns[mine])), [every]))
    return found


def pooled_sums(parts: Sequence[Sums]) -> Sums:
    """The sums over all languages."""
    observed = np.sum([part.observed for part in parts], axis=0)
    drawn = np.sum([part.drawn for part in parts], axis=0)
    without = np.concatenate([observed - part.observed + part.without for part in parts])
    ends = np.cumsum([len(part.without) for part in parts])
    return Sums(observed, drawn, without, np.split(np.arange(len(without)), ends[:-1]))


def estimates(
    answers: Answers, passages: Ids, sums: Sums, leaves: Sequence[str], levels: Sequence[float]
) -> list[dict[float, Found]]:
    """The figures of each study at each level. answers, passages: of the scope's items: [items, studies], [items]."""
    values: dict[str, Sequence[Floats]] = {}
    given: dict[str, NDArray[np.bool_]] = {}
    events: dict[str, Floats] = {}
    start, size = 0, int(np.bincount(passages).max())
    for name in leaves:
        quantity = _all_at_once(name, answers)
        width = quantity.columns.shape[1]
        own_sums = [part[..., start : start + width] for part in sums[:3]]
        start += width
        values[name] = [quantity.value(part) for part in own_sums]
        given[name] = np.array([quantity.given(row) for row in own_sums[0]])
        changed = quantity.changed.reshape(np.shape(answers.base_open)).astype(np.float64)
        events[name] = effective_changes(changed, Cell(len(passages), size, 0.0, 0.0, 0.0, 0.0))
    sides: dict[str, tuple[str, ...]] = {name: (name,) for name in leaves}
    for name, (one, other) in DIFFERENCES.items():
        values[name] = [a - b for a, b in zip(values[one], values[other], strict=True)]
        given[name] = given[one] & given[other]
        sides[name] = (one, other)
    observed, drawn, without = (
        np.concatenate(parts, axis=-1) for parts in zip(*values.values(), strict=True)
    )
    intervals = bca_levels(observed, drawn, without, sums.strata, levels)
    clusters = sum(len(member) for member in sums.strata)
    everything = np.ones(len(passages), dtype=bool)
    studies = np.shape(answers.base_open)[1]
    found: list[dict[float, Found]] = [{} for _ in range(studies)]
    for study, by_level in enumerate(found):
        own = Answers(*(np.asarray(column)[:, study] for column in answers))
        quantities = {name: LEAVES[name](own, passages) for name in leaves if given[name][study]}
        for level, interval in zip(levels, intervals, strict=True):
            here: Found = {}
            possible: dict[str, Range] = {}
            for place, name in enumerate(values):
                if not given[name][study]:
                    here[name] = None
                    continue
                k = place * studies + study
                changed = [events[side][study] if interval.defined[k] else 0.0 for side in sides[name]]
                plain: Estimate | None = Estimate(0.0, 0.0, 0.0, len(passages), clusters)
                # The one without resampling costs most, and is not looked at where enough items changed.
                unread = min(changed) >= BCA_ALONE
                if name in DIFFERENCES:
                    possible[name] = range_apart(*(possible[side] for side in sides[name]))
                    plain = plain if unread else join(*(here[side] for side in sides[name]))  # type: ignore[arg-type]
                else:
                    possible[name] = quantities[name].possible(everything, level)
                    plain = plain if unread else quantities[name].plain(everything, level)
                assert plain is not None
                value = float(observed[k])
                low, high, method = choose(float(interval.low[k]), float(interval.high[k]), plain, changed)
                low, high = inside(low, high, value, possible[name])
                here[name] = plain._replace(value=value, low=low, high=high, method=method)
            by_level[level] = here
    return found


class Study(NamedTuple):
    """One study: its answers, and its figures overall and (if asked) in each language, at each level."""

    design: Design
    answers: Answers
    overall: dict[float, Found]
    languages: list[dict[float, Found]]

    def evidence(self) -> Evidence:
        """What the overall verdict rests on."""
        whole = _evidence(self.answers, self.design.passages, self.overall[LEVEL])
        return replace(
            whole, stands=frozenset(claim for claim in CLAIMS if _claim(claim, self.overall).rank(1, apart))
        )

    def language_evidence(self) -> list[Evidence]:
        """What the verdict of each language rests on, corrected for their number."""
        design = self.design
        names = [str(number) for number in range(design.languages)]
        stands = {
            claim: holm_stands(
                {
                    name: _claim(claim, by_level).rank(design.languages, apart)
                    for name, by_level in zip(names, self.languages, strict=True)
                },
                design.languages,
            )
            for claim in CLAIMS
        }
        found = []
        for name, by_level in zip(names, self.languages, strict=True):
            mine = slice(int(name) * design.items, (int(name) + 1) * design.items)
            answers = Answers(*(np.asarray(column)[mine] for column in self.answers))
            kept = frozenset(claim for claim in CLAIMS if name in stands[claim])
            found.append(replace(_evidence(answers, design.passages[mine], by_level[LEVEL]), stands=kept))
        return found


def _claim(name: str, by_level: Mapping[float, Found]) -> _Claim:
    estimates = {level: found[name] for level, found in by_level.items()}
    return _Claim(estimates, GAP_ALPHA if name == "gap" else ALPHA)


def simulate(
    truth: Truth,
    design: Design,
    studies: int,
    *,
    leaves: Sequence[str] = ("open", "choice"),
    by_language: bool = False,
    seed: int = 0,
    draws: int = DRAWS,
) -> Iterator[Study]:
    """Studies of one truth with their figures."""
    generator = np.random.default_rng([seed, *design[:3], *(round(1000 * value) for value in truth)])
    passages = design.passages
    resampling = resample(design.labels, passages, draws=draws, seed=seed)
    levels = levels_of(design.languages)
    for start in range(0, studies, CHUNK):
        answers = draw_studies(truth, design, min(CHUNK, studies - start), generator)
        shape = np.shape(answers.base_open)
        columns = np.concatenate(
            [_all_at_once(name, answers).columns.reshape(*shape, -1) for name in leaves], axis=-1
        )
        parts = language_sums(resampling, columns)
        overall = estimates(answers, passages, pooled_sums(parts), leaves, levels_of(1))
        scopes: list[list[dict[float, Found]]] = []
        if by_language:
            for number, sums in enumerate(parts):
                mine = resampling.language == number
                own = Answers(*(np.asarray(column)[mine] for column in answers))
                scopes.append(estimates(own, passages[mine], sums, leaves, levels))
        for study, whole in enumerate(overall):
            one = Answers(*(np.asarray(column)[:, study] for column in answers))
            yield Study(design, one, whole, [scope[study] for scope in scopes])


def _evidence(answers: Answers, passages: Ids, found: Found) -> Evidence:
    before_open, after_open, before_choice, after_choice = (np.asarray(column) for column in answers)
    index = fates(before_open, before_choice, after_open, after_choice)
    unsaid = met(index, "choice_only", "lost")
    return Evidence(
        len(index),
        float(before_open.mean()),
        float(after_open.mean()),
        float(before_choice.mean()),
        float(after_choice.mean()),
        found["open"],
        found["choice"],
        found["gap"],
        counts_of(index),
        rate(met(index[unsaid], "lost"), passages[unsaid]),
    )


def outcomes(truth: Truth, design: Design, studies: int, *, seed: int = 0) -> Counter[Outcome]:
    """How many studies end in each outcome, overall."""
    return Counter(decide(study.evidence()).outcome for study in simulate(truth, design, studies, seed=seed))


def directional(found: Mapping[Outcome, int]) -> float:
    """The share of studies that say which of the two formats lost more."""
    return sum(found.get(outcome, 0) for outcome in DIRECTIONAL) / sum(found.values())


def demotions(found: Mapping[Outcome, int]) -> float:
    """The share of studies that find open fallen and choice held."""
    return (found.get("illusion", 0) + found.get("demotion", 0)) / sum(found.values())


def language_alarms(
    truth: Truth, design: Design, studies: int, alarming: Collection[Outcome], *, seed: int = 0
) -> float:
    """The share of studies in which the verdict of at least one language is among the alarming ones."""
    alarms = [
        any(decide(evidence).outcome in alarming for evidence in study.language_evidence())
        for study in simulate(truth, design, studies, by_language=True, seed=seed)
    ]
    return sum(alarms) / len(alarms)
