"""Settings and result of locating."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from anomia.errors import RunError, StudyError, nearest
from anomia.locate.curves import ATTRIBUTION
from anomia.locate.words import WORDS, ItemWords
from anomia.measure.rates import Estimate
from anomia.records import read_rows
from anomia.run_folder import LocatedFolder

POINTS = 3
"""Points on the path, both ends included; more of them make the shares add up more exactly."""
BUDGETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Shares of the weights at which orders are tried."""
Among = Literal["choice_only", "lost", "positions"]
AMONG: tuple[Among, ...] = get_args(Among)
"""What is located: `choice_only` items, all that base answers and the compressed model doesn't, or tokens of base's
long answers that the compressed model ranks second to tenth."""
FORMAT = 2
"""The version of a stored result. The first one has no number: there, budgets were filled with whatever still fitted,
and half shares were read from straight lines between them."""
OLD = (
    "located by an earlier version, which estimated half shares between the shares tried; run `anomia locate` again "
    "for measured ones"
)
_LEAST: Mapping[str, int] = {"items": 4, "per_answer": 1, "points": 3, "draws": 1, "leaders": 0}
"""The smallest value of each setting that is a whole number."""
TABLES = ("units", "items", "readings", "lens", "curve")
"""Tables of a result, each in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateOptions:
    """Settings of locating.

    among: which items count as demoted. items: at most this many of them, and as many kept ones. per_answer: how many
    demoted positions of one long answer are taken, the first ones. points: on the path of attribution. budgets: shares
    of the weights at which orders are tried. draws: number of random orders. leaders: number of units that are also
    restored alone. seed: for the choice of items, the halves, and random orders.
    """

    among: Among = "choice_only"
    items: int = 64
    per_answer: int = 1
    points: int = POINTS
    budgets: tuple[float, ...] = BUDGETS
    draws: int = 3
    leaders: int = 8
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuses settings that can't work.

        Raises:
            StudyError: the message says which.
        """
        if self.among not in AMONG:
            raise StudyError(f"locate: among {self.among}: {nearest(str(self.among), AMONG)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise StudyError(f"locate: {name} {value!r}: give a whole number from {least} on")
        if self.points % 2 == 0:
            raise StudyError(
                f"locate: points {self.points}: Simpson's rule takes an odd number; give {self.points + 1}"
            )
        budgets = self.budgets
        if not budgets or not all(0 < budget < 1 for budget in budgets):
            raise StudyError(f"locate: budgets {budgets!r}: give shares of the weights between 0 and 1")
        # Everything reads them in ascending order.
        object.__setattr__(self, "budgets", tuple(sorted(set(map(float, budgets)))))


class Directions(NamedTuple):
    """What one block carries, measured in both directions, as a share of the difference between base and compressed.

    alone: how much comes back with base's weights in this block only. lost: how much goes with compressed weights in
    this block only. answers, margin: by right answers and by the mean margin. rank: the median rank of gold's token, no
    share; NaN where it is not known.
    """

    block: int
    answers_alone: float
    answers_lost: float
    margin_alone: float
    margin_lost: float
    rank_alone: float = math.nan
    rank_lost: float = math.nan


@dataclass(frozen=True)
class Located:
    """Where the damage of an arm is.

    units: one row per unit: name, block, place, kind, weights, changed, the mean share in nats over demoted items of
    the ordering half with its interval, and the same for the control answer and for kept items. items: one row per
    item.
    readings: one row per mixture and deciding item. lens: one row per item, model and block.
    halves: the smallest share of the weights tried that brings half of the items back, by order. ahead: how much more
    each other order needs than attribution. gained: how many more items attribution brings back than each, as a mean
    over the budgets. agreement: rank correlation of the units between two halves of the ordering items.
    leader: the order that leads, and picked: what each needs to bring half of the ordering items back, infinite if more
    than a place has. chance: how much more random orders need than the leader; None in an old result. place: the units
    that bring half back, without those that bring nothing back. found: whether they are a place, or the damage is
    diffuse. sentence: the result in words.
    """

    arm: str
    options: LocateOptions
    units: pl.DataFrame
    items: pl.DataFrame
    readings: pl.DataFrame
    lens: pl.DataFrame
    curve: pl.DataFrame
    halves: Mapping[str, Estimate]
    ahead: Mapping[str, Estimate]
    gained: Mapping[str, Estimate]
    agreement: Estimate | None
    directions: tuple[Directions, ...]
    notes: tuple[str, ...]
    place: tuple[str, ...]
    found: bool
    sentence: str
    seconds: Mapping[str, float]
    leader: str = ATTRIBUTION
    picked: Mapping[str, float] = field(default_factory=dict)
    chance: Estimate | None = None

    @property
    def words(self) -> ItemWords:
        """What its items are called."""
        return WORDS[self.options.among]

    @property
    def place_share(self) -> float:
        """How many of the differing weights the place holds, from 0 to 1."""
        sizes: dict[str, int] = dict(self.units.select("name", "weights").iter_rows())
        return sum(sizes[name] for name in self.place) / sum(sizes.values())

    def as_json(self) -> dict[str, Any]:
        """Everything but the tables, as plain values."""
        return {
            "format": FORMAT,
            "arm": self.arm,
            "options": asdict(self.options),
            "sentence": self.sentence,
            "found": self.found,
            "place": list(self.place),
            "leader": self.leader,
            "picked": {name: share if math.isfinite(share) else None for name, share in self.picked.items()},
            "chance": None if self.chance is None else self.chance._asdict(),
            "half": {name: each._asdict() for name, each in self.halves.items()},
            "ahead": {name: each._asdict() for name, each in self.ahead.items()},
            "gained": {name: each._asdict() for name, each in self.gained.items()},
            "rank_agreement": None if self.agreement is None else self.agreement._asdict(),
            "directions": [each._asdict() for each in self.directions],
            "disagreement": disagreement(self.directions),
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }


def read_located(folder: LocatedFolder) -> Located | None:
    """A stored result; None if the arm was not located, or not to the end."""
    found = folder.result.read()
    if not found:
        return None
    if found.get("format", 1) > FORMAT:
        raise RunError(
            f"locate: {folder.path} was written by a newer Anomia; update this one, or run `anomia locate` again"
        )
    old = [] if "format" in found else [OLD]
    tables = {name: read_rows(folder.table(name)) for name in TABLES}
    options = found["options"]
    return Located(
        arm=found["arm"],
        options=LocateOptions(**{**options, "budgets": tuple(options["budgets"])}),
        **tables,
        halves=_estimates(found["half"]),
        ahead=_estimates(found["ahead"]),
        gained=_estimates(found["gained"]),
        agreement=None if found["rank_agreement"] is None else Estimate(**found["rank_agreement"]),
        directions=tuple(
            Directions(each["block"], *(_number(each.get(name)) for name in Directions._fields[1:]))
            for each in found["directions"]
        ),
        notes=(*old, *found["notes"]),
        place=tuple(found["place"]),
        found=found["found"],
        sentence=found["sentence"],
        seconds=found["seconds"],
        leader=found.get("leader", ATTRIBUTION),
        picked={
            name: math.inf if share is None else share for name, share in found.get("picked", {}).items()
        },
        chance=Estimate(**found["chance"]) if found.get("chance") else None,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _estimates(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    return {name: Estimate(**each) for name, each in found.items()}


def disagreement(directions: Sequence[Directions]) -> dict[str, float | None]:
    """How far both directions are apart: the mean distance of a block's two shares, and their rank correlation."""
    from scipy import stats

    found: dict[str, float | None] = {}
    for what in ("answers", "margin"):
        alone = np.array([getattr(each, f"{what}_alone") for each in directions])
        lost = np.array([getattr(each, f"{what}_lost") for each in directions])
        varied = len(alone) > 2 and np.ptp(alone) > 0 and np.ptp(lost) > 0
        found[f"{what}_distance"] = float(np.abs(alone - lost).mean()) if len(alone) else None
        found[f"{what}_rank_correlation"] = float(stats.spearmanr(alone, lost).statistic) if varied else None
    return found
