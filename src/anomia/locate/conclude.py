"""What attribution and restoration say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomia.errors import ModelError
from anomia.locate.attribution import (
    UNRELIABLE,
    Attribution,
    residual_of,
)
from anomia.locate.cases import LocatedItem
from anomia.locate.curves import (
    ATTRIBUTION,
    GOAL,
    HALF,
    MOVED,
    RANDOM,
    Answered,
    Deciding,
    Series,
    half_difference,
    half_share,
    mean_difference,
    rank_agreement,
)
from anomia.locate.located import Directions, Located, LocateOptions
from anomia.locate.pairs import WeightUnit
from anomia.locate.prepare import Subjects
from anomia.locate.restore import (
    fill,
)
from anomia.locate.sentence import Alone, broken_of, evidence_of, notes_of, sentence_of, silent_of
from anomia.locate.words import WORDS, ItemWords
from anomia.measure.rates import Estimate, rate, student_mean
from anomia.words import counted, percent

NOTHING, EVERYTHING, PLACE = "nothing", "everything", "place"


def check_ends(readings: pl.DataFrame, words: ItemWords) -> None:
    """Refuses experiments whose ends aren't the two models: base's weights must bring most demoted items back.

    Raises:
        ModelError: with all of base's weights less than half of the items are right, or without any at least half.
    """
    mine = readings.filter(pl.col("group") == "demoted")
    right = {
        kind: float(part["correct"].mean())  # type: ignore[arg-type]
        for (kind,), part in mine.group_by("kind")
    }
    count = mine.filter(pl.col("kind") == NOTHING).height
    if right[EVERYTHING] < HALF:
        raise ModelError(
            f"locate: with all of base's weights the compressed model has only {percent(right[EVERYTHING])} of "
            f"{counted(count, f'demoted {words.one}')} {words.right}, and base has all of them: the two models differ "
            "in more than their weights; `anomia diff BASE COMPRESSED` says in what"
        )
    if right[NOTHING] >= HALF:
        raise ModelError(
            f"locate: asked again, the compressed model has {percent(right[NOTHING])} of "
            f"{counted(count, f'demoted {words.one}')} {words.right}, so that nothing is left to bring back; ask more "
            "questions, or measure in float32 (--dtype float32)"
        )


def of_group(cases: Sequence[LocatedItem], group: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which cases are of a group: [items]."""
    return np.array([case.candidate.group == group for case in cases], dtype=bool)


def with_groups(readings: pl.DataFrame, cases: Sequence[LocatedItem]) -> pl.DataFrame:
    """Readings with each item's position, group and passage. Each mixture's readings are in the order of the cases."""
    keys = pl.DataFrame(
        {
            "position": pl.Series([case.candidate.index for case in cases], dtype=pl.Int32),
            "group": [case.candidate.group for case in cases],
            "passage": [case.candidate.passage for case in cases],
        }
    )
    return pl.concat([readings, pl.concat([keys] * (len(readings) // len(cases)))], how="horizontal")


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
    *,
    leader: str,
    picked: Mapping[str, float],
    place: tuple[str, ...],
) -> Located:
    """What attribution and readings say.

    leader, picked: the leading order, and what each needs on the ordering items. place: the units that bring half back.
    """
    units, words = subjects.pair.units, WORDS[options.among]
    demoted = [case for case in decide_cases if case.candidate.group == "demoted"]
    deciding = Deciding(
        [case.candidate.language for case in demoted], [case.candidate.passage for case in demoted]
    )
    answered = {name: answered_under(readings, name, "demoted") for name in orders}
    halves = {name: half_share(deciding, each) for name, each in answered.items()}
    rest = [name for name in orders if name != ATTRIBUTION]
    ahead = {name: half_difference(deciding, answered[ATTRIBUTION], answered[name]) for name in rest}
    gained = {
        name: mean_difference(deciding, answered[ATTRIBUTION], answered[name], options.budgets)
        for name in rest
    }
    counted = of_group(order_cases, "demoted") & reliable(found, order_cases)
    passages = np.array([case.candidate.passage for case in order_cases])
    agreement = rank_agreement(found.gold[counted], passages[counted].tolist(), seed=options.seed)
    chance = half_difference(deciding, answered[leader], answered[RANDOM])
    differing = sum(unit.weights for unit in units) / subjects.pair.weights
    is_found = is_place(halves[leader], place, chance, units=len(units), differing=differing)
    curve, directions = curve_rows(readings, orders), directions_of(readings)
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
        directions=directions,
        notes=(
            *notes_of(subjects, found, order_cases, answered[ATTRIBUTION].right, words),
            *silent_of(units, unreached(found)),
            *broken_of(readings),
            *evidence_of(found, agreement, directions, len(decide_cases) - len(demoted), words),
        ),
        place=place,
        found=is_found,
        sentence=sentence_of(
            halves,
            place,
            units,
            leader=leader,
            ahead=ahead[MOVED] if moves_known(found) else None,
            chance=chance,
            found=is_found,
            differing=differing,
            items=f"{len(demoted)} {words.many}",
            alone=best_alone(directions, units),
        ),
        seconds=seconds,
        leader=leader,
        picked=picked,
        chance=chance,
    )


def moves_known(found: Attribution) -> bool:
    """Whether ‖ΔX‖ is known for all units."""
    return bool(np.isfinite(found.moved).all())


def unreached(found: Attribution) -> NDArray[np.bool_]:
    """The units whose share of gold is exactly 0 for every item, so that no gradient reaches them: [units]."""
    silent: NDArray[np.bool_] = np.all(found.gold == 0, axis=0)
    return silent


def reliable(found: Attribution, cases: Sequence[LocatedItem]) -> NDArray[np.bool_]:
    """The items whose shares count, in the order and in every figure: [items].

    These are the ones whose shares add up; all of a group where they add up for none of its demoted items.
    """
    mine = of_group(cases, "demoted")
    if (mine & ~found.unreliable).any():
        return ~found.unreliable
    return np.where(mine, True, ~found.unreliable)


def is_place(half: Estimate, place: Sequence[str], chance: Estimate, *, units: int, differing: float) -> bool:
    """Whether the damage has a place: few weights or one unit bring half back, and random orders need clearly more.

    half, place: of the leading order. chance: how much more a random order needs. units: how many differ. differing:
    the share of the whole model's weights that differ; if it is small, they are the place in any case.
    """
    if differing <= GOAL or units == 1:
        return True
    return (half.value <= GOAL or len(place) == 1) and chance.low > 0


def answered_under(readings: pl.DataFrame, order: str, group: str) -> Answered:
    """The readings of one order, [items, shares], from none of base's weights to all of them."""
    mine = readings.filter(pl.col("group") == group)
    ends = [
        mine.filter(pl.col("kind") == name)["correct"].to_numpy().astype(np.float64)
        for name in (NOTHING, EVERYTHING)
    ]
    here = mine.filter(pl.col("kind") == order)
    budgets, series = [0.0, 1.0], []
    for _, draw in here.group_by("place", maintain_order=True):
        shares, columns, budgets = [0.0], [ends[0]], [0.0]
        for (budget,), part in draw.sort("budget", maintain_order=True).group_by(
            "budget", maintain_order=True
        ):
            shares.append(float(part["share"][0]))
            columns.append(part["correct"].to_numpy().astype(np.float64))
            budgets.append(float(budget))
        budgets.append(1.0)
        series.append(Series(np.array([*shares, 1.0]), np.stack([*columns, ends[1]], axis=1)))
    return Answered(tuple(series), np.array(budgets))


def smallest_place(answered: Answered, order: Sequence[str], units: Sequence[WeightUnit]) -> tuple[str, ...]:
    """The units that an order restores at the first budget at which half of the items are right; all if none does."""
    for budget, returned in zip(answered.budgets[1:-1], answered.right.mean(axis=0)[1:-1], strict=True):
        if returned >= HALF - 1e-9:
            return fill(order, units, budget)
    return tuple(order)


def directions_of(readings: pl.DataFrame) -> tuple[Directions, ...]:
    """What each block carries in both directions, over the demoted items that decide."""
    mine = readings.filter(pl.col("group") == "demoted")
    means = {
        (kind, place): (float(right or 0.0), float(margin or 0.0))
        for kind, place, right, margin in mine.group_by("kind", "place")
        .agg(pl.col("correct").mean(), pl.col("margin").mean())
        .iter_rows()
    }
    ranks = {
        (kind, place): math.nan if rank is None else float(rank)
        for kind, place, rank in mine.group_by("kind", "place").agg(pl.col("rank").median()).iter_rows()
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
        parts += [ranks["block", place], ranks["without_block", place]]
        found.append(Directions(int(place), *parts))
    return tuple(found)


def best_alone(directions: Sequence[Directions], units: Sequence[WeightUnit]) -> Alone | None:
    """The block that brings most back alone, if it is at least half."""
    best = max(directions, key=lambda each: each.answers_alone, default=None)
    if best is None or not best.answers_alone >= HALF:
        return None
    mine = sum(unit.weights for unit in units if unit.block == best.block)
    return Alone(best.block, best.answers_alone, mine / sum(unit.weights for unit in units))


def unit_rows(units: Sequence[WeightUnit], found: Attribution, cases: Sequence[LocatedItem]) -> pl.DataFrame:
    """One row per unit, with mean shares over the ordering items and their intervals over passages, in nats.

    Items whose shares don't add up are left out; of the control, those whose control's shares don't.
    """
    passages = np.array([case.candidate.passage for case in cases])
    counted = reliable(found, cases)
    demoted, kept = (of_group(cases, group) & counted for group in ("demoted", "kept"))
    adds_up = np.abs(residual_of(found.control, found.control_ends)) <= UNRELIABLE
    beside = of_group(cases, "demoted") & adds_up & ~np.isnan(found.control).any(axis=1)
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
                "position": case.candidate.index,
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
        "language": pl.String, "item_id": pl.String, "position": pl.Int32, "passage": pl.Int64,
        "group": pl.String, "half": pl.String, "read_at": pl.String,
        **dict.fromkeys(names, pl.Float64), "unreliable": pl.Boolean,
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
                if point and answered.shares[point] == answered.shares[point - 1]:
                    continue  # the same units as for the budget before
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
            "position": pl.Series([case.candidate.index for case in cases], dtype=pl.Int32),
            "group": [case.candidate.group for case in cases],
        }
    )
