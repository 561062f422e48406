"""Locating the damage of one arm of a run: attribution, restoration, and what they say together."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from anomia.locate.attribution import (
    POINTS,
    Attribution,
    Way,
    attribute,
    choose_way,
    residual_of,
)
from anomia.locate.cases import Among, LocatedItem
from anomia.locate.curves import (
    ATTRIBUTION,
    DEPTH,
    GOAL,
    MOVED,
    RANDOM,
    Answered,
    Deciding,
    half_difference,
    half_share,
    mean_difference,
    rank_agreement,
)
from anomia.locate.lens import LENS_SCHEMA, Lens
from anomia.locate.pairs import WeightUnit
from anomia.locate.prepare import Subjects, open_arm, prepare
from anomia.locate.restore import (
    BUDGETS,
    Mixture,
    at_random,
    by_depth,
    by_weight,
    cumulative_mixtures,
    fill,
    read_all,
    share_of,
    single_mixtures,
)
from anomia.measure.bootstrap import FloatArray
from anomia.measure.rates import Estimate, rate, student_mean
from anomia.records import read_rows, write_rows
from anomia.run_folder import RunFolder, locked
from anomia.running.progress import Progress
from anomia.words import counted, percent

CHUNK = 8
"""Items that are attributed together; a stopped attribution repeats at most so many."""
SHARES_SCHEMA: Mapping[str, Any] = {
    "item": pl.Int32,
    "unit": pl.String,
    "gold": pl.Float64,
    "control": pl.Float64,
    "moved": pl.Float64,
}
ENDS_SCHEMA: Mapping[str, Any] = {
    "item": pl.Int32,
    "compressed": pl.Float64,
    "base": pl.Float64,
    "control_compressed": pl.Float64,
    "control_base": pl.Float64,
}
NOTHING, EVERYTHING = "nothing", "everything"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateOptions:
    """Settings of locating.

    among: which items count as demoted. items: at most so many of them, and as many kept ones. points: on the path of
    attribution. budgets: shares of the weights at which orders are tried. draws: random orders. leaders: units that are
    also restored alone. seed: of the choice of items, the halves, and random orders.
    """

    among: Among = "choice_only"
    items: int = 64
    points: int = POINTS
    budgets: tuple[float, ...] = BUDGETS
    draws: int = 3
    leaders: int = 8
    seed: int = 42


class Directions(NamedTuple):
    """What one block carries, measured in both directions, as a share of the difference between base and compressed.

    alone: how much comes back with base's weights in this block only. lost: how much goes with compressed weights in
    this block only. answers, margin: by right answers and by the mean margin.
    """

    block: int
    answers_alone: float
    answers_lost: float
    margin_alone: float
    margin_lost: float


@dataclass(frozen=True)
class Located:
    """Where the damage of an arm is.

    units: one row per unit: name, block, place, kind, weights, changed, the mean share in nats over demoted items of the
    ordering half with its interval, and the same for the control answer and for kept items. items: one row per item.
    readings: one row per mixture and deciding item. lens: one row per item, model and block.
    halves: the share of the weights that brings half of the items back, by order. ahead: by other order, how much more
    it needs than attribution. gained: how many more items attribution brings back, as a mean over the budgets.
    agreement: rank correlation of the units between two halves of the ordering items. sentence: the result in words.
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

    def as_json(self) -> dict[str, Any]:
        """Everything but the tables, as plain values."""
        return {
            "arm": self.arm,
            "options": asdict(self.options),
            "sentence": self.sentence,
            "found": self.found,
            "place": list(self.place),
            "half": {name: each._asdict() for name, each in self.halves.items()},
            "ahead": {name: each._asdict() for name, each in self.ahead.items()},
            "gained": {name: each._asdict() for name, each in self.gained.items()},
            "rank_agreement": None if self.agreement is None else self.agreement._asdict(),
            "directions": [each._asdict() for each in self.directions],
            "disagreement": disagreement(self.directions),
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }


def locate_arm(run: Path, arm: str, options: LocateOptions, progress: Progress) -> Located:
    """Locates the damage of an arm, and stores the result in the run's folder.

    What an earlier call with the same settings finished is not repeated.

    Raises:
        AnomiaError: the arm can't be located; the message says why.
    """
    cell, name = open_arm(run, arm, progress)
    with locked(cell.path):
        folder = RunFolder(cell.path).located(name)
        began = time.monotonic()
        subjects = prepare(
            cell,
            name,
            progress,
            among=options.among,
            items=options.items,
            seed=options.seed,
            folder=folder.parts,
        )
        found = locate(subjects, options, progress, folder.parts, prepared=time.monotonic() - began)
        for table, schema in (
            ("units", None),
            ("items", None),
            ("readings", None),
            ("lens", None),
            ("curve", None),
        ):
            frame: pl.DataFrame = getattr(found, table)
            write_rows(frame.iter_rows(named=True), folder.table(table), schema or frame.schema)
        folder.result.write(found.as_json())
    return found


def locate(
    subjects: Subjects,
    options: LocateOptions,
    progress: Progress,
    parts: Path | None,
    *,
    prepared: float = 0.0,
) -> Located:
    """Runs all experiments on prepared subjects. parts: a folder for finished parts; None keeps none."""
    pair, reader = subjects.pair, subjects.reader
    order_cases = [case for case in subjects.cases if case.half == "order"]
    decide_cases = [case for case in subjects.cases if case.half == "decide"]
    began = time.monotonic()
    attribution, lens = attribute_cases(subjects, order_cases, options, progress, parts)
    attributed = time.monotonic()
    scores = _scores(attribution, order_cases)
    leaders = sorted(scores[ATTRIBUTION], key=lambda name: -scores[ATTRIBUTION][name])[: options.leaders]
    orders: dict[str, list[list[str]]] = {
        ATTRIBUTION: [by_weight(scores[ATTRIBUTION], pair.units)],
        MOVED: [by_weight(scores[MOVED], pair.units)],
        DEPTH: [by_depth(pair.units, pair.blocks)],
        RANDOM: [at_random(pair.units, options.seed, draw) for draw in range(options.draws)],
    }
    mixtures = [
        Mixture(NOTHING, "", None, ()),
        Mixture(EVERYTHING, "", None, pair.names),
        *cumulative_mixtures(orders, pair.units, options.budgets),
        *single_mixtures(pair.units, pair.blocks, leaders),
    ]
    progress.stage(f"restoring weights of {subjects.arm}", len(mixtures))
    readings = with_groups(read_all(reader, mixtures, decide_cases, progress.advance), decide_cases)
    restored = time.monotonic()
    return conclude(
        subjects,
        options,
        attribution,
        order_cases,
        decide_cases,
        readings,
        lens,
        orders,
        {
            "preparing": prepared,
            "attribution": attributed - began,
            "restoration": restored - attributed,
        },
    )


def attribute_cases(
    subjects: Subjects,
    cases: Sequence[LocatedItem],
    options: LocateOptions,
    progress: Progress,
    parts: Path | None,
) -> tuple[Attribution, pl.DataFrame]:
    """The attribution of all cases and the rows of the lens, a few items at a time; finished ones are read back."""
    pair = subjects.pair
    chunks = [cases[first : first + CHUNK] for first in range(0, len(cases), CHUNK)]
    progress.stage("attribution", len(chunks))
    way: Way | None = None
    found, seen = [], []
    for number, chunk in enumerate(chunks):
        asked = [case.subject for case in chunk]
        file = None if parts is None else parts / f"attribution-{_key([options.points, asked])}.parquet"
        stored = None if file is None else _stored(file, pair.names, options.points)
        if stored is None:
            way = way or choose_way(pair, [case.gold.prefix for case in cases])
            lens = Lens(pair, asked)
            one = attribute(pair, asked, points=options.points, way=way, observe=lens if lens.fits else None)
            rows = pl.DataFrame(lens.rows, schema=dict(LENS_SCHEMA), orient="row")
            if file is not None:
                _store(file, one, rows)
            stored = one, rows
        found.append(stored[0])
        seen.append(stored[1].with_columns(pl.col("item") + number * CHUNK))
        progress.advance()
    return _joined(found), pl.concat(seen)


def _joined(found: Sequence[Attribution]) -> Attribution:
    """The attributions of several lists of items, one after the other."""
    arrays = {
        name: np.concatenate([getattr(each, name) for each in found])
        for name in ("gold", "control", "ends", "control_ends", "moved")
    }
    return Attribution(
        units=found[0].units,
        points=found[0].points,
        by_gradient=tuple(sorted({name for each in found for name in each.by_gradient})),
        **arrays,
    )


def _key(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]


def _store(file: Path, found: Attribution, lens: pl.DataFrame) -> None:
    items, units = found.gold.shape
    rows = pl.DataFrame(
        {
            "item": np.repeat(np.arange(items, dtype=np.int32), units),
            "unit": list(found.units) * items,
            **{name: getattr(found, name).reshape(-1) for name in ("gold", "control", "moved")},
        }
    )
    ends = pl.DataFrame(
        {
            "item": np.arange(items, dtype=np.int32),
            "compressed": found.ends[:, 0],
            "base": found.ends[:, 1],
            "control_compressed": found.control_ends[:, 0],
            "control_base": found.control_ends[:, 1],
        }
    )
    write_rows(lens.iter_rows(named=True), file.with_suffix(".lens.parquet"), LENS_SCHEMA)
    write_rows(ends.iter_rows(named=True), file.with_suffix(".ends.parquet"), ENDS_SCHEMA)
    # Last, because its presence means that the others are there.
    write_rows(rows.iter_rows(named=True), file, SHARES_SCHEMA)


def _stored(file: Path, units: tuple[str, ...], points: int) -> tuple[Attribution, pl.DataFrame] | None:
    """A stored attribution with the rows of the lens; None if there is none."""
    if not file.is_file():
        return None
    rows, ends = read_rows(file), read_rows(file.with_suffix(".ends.parquet"))
    size = (len(ends), len(units))
    if len(rows) != size[0] * size[1] or tuple(rows["unit"][: len(units)]) != units:
        return None
    found = Attribution(
        units=units,
        gold=rows["gold"].to_numpy().reshape(size),
        control=rows["control"].to_numpy().reshape(size),
        ends=ends.select("compressed", "base").to_numpy(),
        control_ends=ends.select("control_compressed", "control_base").to_numpy(),
        moved=rows["moved"].to_numpy().reshape(size),
        points=points,
    )
    return found, read_rows(file.with_suffix(".lens.parquet"))


def _of(cases: Sequence[LocatedItem], group: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([case.candidate.group == group for case in cases], dtype=bool)


def _scores(found: Attribution, cases: Sequence[LocatedItem]) -> dict[str, dict[str, float]]:
    """The score of each unit under each order: the mean share over demoted items, and the mean norm of ΔX.

    Items whose shares don't add up give no order.
    """
    mine = _of(cases, "demoted")
    sound = mine & ~found.unreliable
    chosen = found.gold[sound if sound.any() else mine]
    return {
        ATTRIBUTION: dict(zip(found.units, chosen.mean(axis=0).tolist(), strict=True)),
        MOVED: dict(zip(found.units, np.sqrt((found.moved**2).mean(axis=0)).tolist(), strict=True)),
    }


def with_groups(readings: pl.DataFrame, cases: Sequence[LocatedItem]) -> pl.DataFrame:
    """Readings with the group and the passage of each item."""
    keys = pl.DataFrame(
        {
            "language": [case.candidate.language for case in cases],
            "item_id": [case.candidate.item_id for case in cases],
            "group": [case.candidate.group for case in cases],
            "passage": [case.candidate.passage for case in cases],
        }
    )
    return readings.join(keys, on=["language", "item_id"], how="left", maintain_order="left")


def conclude(
    subjects: Subjects,
    options: LocateOptions,
    found: Attribution,
    order_cases: Sequence[LocatedItem],
    decide_cases: Sequence[LocatedItem],
    readings: pl.DataFrame,
    lens: pl.DataFrame,
    orders: Mapping[str, Sequence[Sequence[str]]],
    seconds: Mapping[str, float],
) -> Located:
    """What attribution and readings say."""
    units = subjects.pair.units
    demoted = [case for case in decide_cases if case.candidate.group == "demoted"]
    deciding = Deciding(
        [case.candidate.language for case in demoted], [case.candidate.passage for case in demoted]
    )
    answered = {name: answered_under(readings, name, "demoted") for name in orders}
    halves = {name: half_share(deciding, each) for name, each in answered.items()}
    rest = [name for name in orders if name != ATTRIBUTION]
    ahead = {name: half_difference(deciding, answered[ATTRIBUTION], answered[name]) for name in rest}
    gained = {name: mean_difference(deciding, answered[ATTRIBUTION], answered[name]) for name in rest}
    mine = _of(order_cases, "demoted")
    passages = np.array([case.candidate.passage for case in order_cases])
    agreement = rank_agreement(found.gold[mine], passages[mine].tolist(), seed=options.seed)
    place = smallest_place(answered[ATTRIBUTION], orders[ATTRIBUTION][0], units, options.budgets)
    rival = MOVED if np.isfinite(found.moved).all() else RANDOM
    is_found = halves[ATTRIBUTION].value <= GOAL and ahead[rival].low > 0
    curve = curve_rows(readings, orders)
    return Located(
        arm=subjects.arm,
        options=options,
        units=unit_rows(units, found, order_cases),
        items=item_rows(found, order_cases, decide_cases),
        readings=readings,
        lens=lens.join(_names(order_cases), on="item", how="left", maintain_order="left"),
        curve=curve,
        halves=halves,
        ahead=ahead,
        gained=gained,
        agreement=agreement,
        directions=directions_of(readings),
        notes=tuple(notes_of(subjects, found, order_cases, answered[ATTRIBUTION].right)),
        place=place,
        found=is_found,
        sentence=sentence_of(halves, ahead, place, units, is_found, rival, len(demoted)),
        seconds=seconds,
    )


def answered_under(readings: pl.DataFrame, order: str, group: str) -> Answered:
    """The readings of one order as an array of items and shares; both ends are those of no and of all weights."""
    mine = readings.filter(pl.col("group") == group)
    ends = [
        mine.filter(pl.col("kind") == name)["correct"].to_numpy().astype(np.float64)
        for name in (NOTHING, EVERYTHING)
    ]
    here = mine.filter(pl.col("kind") == order)
    shares, columns = [0.0], [ends[0]]
    for (_,), part in here.sort("budget", maintain_order=True).group_by("budget", maintain_order=True):
        draws = part["place"].n_unique()
        right = part["correct"].to_numpy().astype(np.float64).reshape(draws, -1)
        shares.append(float(part["share"].mean()))  # type: ignore[arg-type]
        columns.append(right.mean(axis=0))
    return Answered(np.array([*shares, 1.0]), np.stack([*columns, ends[1]], axis=1))


def smallest_place(
    answered: Answered, order: Sequence[str], units: Sequence[WeightUnit], budgets: Sequence[float]
) -> tuple[str, ...]:
    """The units that an order restores at the first budget at which half of the items are right; all if none does."""
    for budget, returned in zip(budgets, answered.right.mean(axis=0)[1:-1], strict=True):
        if returned >= 0.5:
            return fill(order, units, budget)
    return tuple(unit.name for unit in units)


def directions_of(readings: pl.DataFrame) -> tuple[Directions, ...]:
    """What each block carries in both directions, over the demoted items that decide."""
    mine = readings.filter(pl.col("group") == "demoted")
    means = {
        (kind, place): (float(right or 0.0), float(margin or 0.0))
        for kind, place, right, margin in mine.group_by("kind", "place")
        .agg(pl.col("correct").mean(), pl.col("margin").mean())
        .iter_rows()
    }
    low, high = means[NOTHING, ""], means[EVERYTHING, ""]
    spans = [high[0] - low[0], high[1] - low[1]]
    found = []
    for kind, place in sorted(means, key=lambda key: (key[0], int(key[1]) if key[1].isdecimal() else -1)):
        if kind != "block":
            continue
        alone, without = means["block", place], means["without_block", place]
        parts = [
            (value / span if span else float("nan"))
            for index, span in enumerate(spans)
            for value in (alone[index] - low[index], high[index] - without[index])
        ]
        found.append(Directions(int(place), *parts))
    return tuple(found)


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


def unit_rows(units: Sequence[WeightUnit], found: Attribution, cases: Sequence[LocatedItem]) -> pl.DataFrame:
    """One row per unit, with mean shares over the ordering items and their intervals over passages, in nats."""
    passages = np.array([case.candidate.passage for case in cases])
    demoted, kept = (_of(cases, group) for group in ("demoted", "kept"))
    beside = demoted & ~np.isnan(found.control).any(axis=1)
    rows = []
    for column, unit in enumerate(units):
        row: dict[str, Any] = unit._asdict()
        moved = found.moved[:, column]
        row["moved"] = float(np.sqrt((moved**2).mean()))
        for name, values, mask in (
            ("share", found.gold, demoted),
            ("control", found.control, beside),
            ("kept", found.gold, kept),
        ):
            here = values[mask, column]
            estimate = student_mean(here, passages[mask]) if mask.any() else None
            row[name] = float(here.mean()) if mask.any() else None
            row[f"{name}_low"] = None if estimate is None else estimate.low
            row[f"{name}_high"] = None if estimate is None else estimate.high
        rows.append(row)
    floats = [
        "moved", *(f"{name}{end}" for name in ("share", "control", "kept") for end in ("", "_low", "_high")),
    ]  # fmt: skip
    schema = {
        "name": pl.String, "parameter": pl.String, "expert": pl.Int32, "block": pl.Int32, "place": pl.String,
        "kind": pl.String, "weights": pl.Int64, "changed": pl.Int64, **dict.fromkeys(floats, pl.Float64),
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def item_rows(
    found: Attribution, order: Sequence[LocatedItem], decide: Sequence[LocatedItem]
) -> pl.DataFrame:
    """One row per item: its group, its half, where its margin is read, and what attribution found."""
    residuals, beside = found.residuals, residual_of(found.control, found.control_ends)
    rows = []
    for number, case in enumerate([*order, *decide]):
        given = number < len(order)
        rows.append(
            {
                "language": case.candidate.language,
                "item_id": case.candidate.item_id,
                "passage": case.candidate.passage,
                "group": case.candidate.group,
                "half": case.half,
                "read_at": case.at,
                "margin_compressed": float(found.ends[number, 0]) if given else None,
                "margin_base": float(found.ends[number, 1]) if given else None,
                "residual": float(residuals[number]) if given else None,
                "control_residual": float(beside[number]) if given else None,
                "unreliable": bool(found.unreliable[number]) if given else None,
            }
        )
    names = ("margin_compressed", "margin_base", "residual", "control_residual")
    schema = {
        "language": pl.String, "item_id": pl.String, "passage": pl.Int64, "group": pl.String, "half": pl.String,
        "read_at": pl.String, **dict.fromkeys(names, pl.Float64), "unreliable": pl.Boolean,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def curve_rows(readings: pl.DataFrame, orders: Mapping[str, Sequence[Sequence[str]]]) -> pl.DataFrame:
    """One row per order, group and share of weights: right answers with their interval, and mean margins."""
    rows = []
    for order in orders:
        for group in ("demoted", "kept"):
            mine = readings.filter(pl.col("group") == group)
            if mine.is_empty():
                continue
            answered = answered_under(readings, order, group)
            passages = mine.filter(pl.col("kind") == NOTHING)["passage"].to_numpy()
            parts = [
                mine.filter(pl.col("kind") == NOTHING),
                *(
                    part
                    for _, part in mine.filter(pl.col("kind") == order)
                    .sort("budget", maintain_order=True)
                    .group_by("budget", maintain_order=True)
                ),
                mine.filter(pl.col("kind") == EVERYTHING),
            ]
            for point, part in enumerate(parts):
                estimate = rate(answered.right[:, point], passages)
                assert estimate is not None
                rows.append(
                    {
                        "order": order,
                        "group": group,
                        "share": float(answered.shares[point]),
                        "right": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "items": estimate.n,
                        "margin": part["margin"].mean(),
                        "control_margin": part["control_margin"].mean(),
                        "median_rank": part["rank"].median(),
                    }
                )
    return pl.DataFrame(rows)


def _names(cases: Sequence[LocatedItem]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item": np.arange(len(cases), dtype=np.int32),
            "language": [case.candidate.language for case in cases],
            "item_id": [case.candidate.item_id for case in cases],
            "group": [case.candidate.group for case in cases],
        }
    )


def notes_of(
    subjects: Subjects, found: Attribution, order: Sequence[LocatedItem], right: FloatArray
) -> list[str]:
    """What a reader should know before the figures. right: of the demoted items that decide: [items, points]."""
    notes = []
    if subjects.lacking:
        notes.append(
            f"{counted(subjects.lacking, 'item')} without a token that tells gold from what is said: left out"
        )
    unreliable = int(found.unreliable.sum())
    if unreliable:
        notes.append(
            f"the shares of {unreliable} of {len(order)} items leave more than 30 % of their change unexplained; they give "
            "no order, and more --points make shares add up better"
        )
    if len(right) < 30:
        notes.append(
            f"only {counted(len(right), 'demoted item')} decide: each is {percent(1 / len(right))} of the result"
        )
    flipped = int((right[:, 0] > 0).sum()), int((right[:, -1] < 1).sum())
    if any(flipped):
        notes.append(
            f"asked again in other batches, the compressed model answers {flipped[0]} of them and base misses {flipped[1]}"
        )
    without = int(np.isnan(found.moved).any(axis=0).sum())
    if without:
        notes.append(
            f"‖ΔX‖ is not known for {counted(without, 'matrix', 'matrices')}, which come last in its order; attribution is "
            "compared with random orders instead"
        )
    if found.by_gradient:
        notes.append(
            f"{counted(len(found.by_gradient), 'parameter')} needed gradients of their own, one item at a time"
        )
    return notes


_ORDER_WORDS = {MOVED: "that by the change of outputs", RANDOM: "a random one"}


def sentence_of(
    halves: Mapping[str, Estimate],
    ahead: Mapping[str, Estimate],
    place: Sequence[str],
    units: Sequence[WeightUnit],
    found: bool,
    rival: str,
    items: int,
) -> str:
    """The result in plain words. rival: the order that attribution has to beat."""
    mine = halves[ATTRIBUTION]
    needs = f"{percent(mine.value)} of the weights ({percent(mine.low)} to {percent(mine.high)})"
    if found:
        return (
            f"Half of what was demoted comes back with {needs}. The first {percent(share_of(place, units))} are "
            f"{described(place, units)}."
        )
    why = []
    if mine.value > GOAL:
        why.append(f"bringing half of the {items} items back takes {needs}")
    if ahead[rival].low <= 0:
        why.append(
            f"the order by attribution needs no fewer weights than {_ORDER_WORDS[rival]} ({percent(mine.value)} and "
            f"{percent(halves[rival].value)}; difference {percent(ahead[rival].value)}, {percent(ahead[rival].low)} to "
            f"{percent(ahead[rival].high)})"
        )
    return f"Diffuse: {', and '.join(why)}."


def described(names: Sequence[str], units: Sequence[WeightUnit]) -> str:
    """Units in words, by their place in the blocks: `down_proj of blocks 2 to 5, o_proj of block 7`."""
    chosen = set(names)
    blocks: dict[str, list[int]] = {}
    outside = []
    for unit in units:
        if unit.name not in chosen:
            continue
        if unit.block is None:
            outside.append(unit.name)
        else:
            blocks.setdefault(unit.place.rpartition(".")[2], []).append(unit.block)
    parts = [f"{place} of {_blocks(sorted(set(found)))}" for place, found in blocks.items()]
    return ", ".join([*parts, *outside])


def _blocks(numbers: Sequence[int]) -> str:
    """Block numbers with runs joined.

    >>> _blocks([2, 3, 4, 7])
    'blocks 2 to 4 and 7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        str(run[0])
        if len(run) == 1
        else f"{run[0]} to {run[-1]}"
        if len(run) > 2
        else f"{run[0]} and {run[1]}"
        for run in runs
    ]
    whole = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"block{'' if len(numbers) == 1 else 's'} {whole}"
