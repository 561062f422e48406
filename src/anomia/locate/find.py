"""Locating the damage of one arm of a run: attribution, then restoration."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from anomia.locate.attribution import (
    Attribution,
)
from anomia.locate.cases import LocatedItem
from anomia.locate.conclude import (
    EVERYTHING,
    NOTHING,
    PLACE,
    answered_under,
    check_ends,
    conclude,
    moves_known,
    of_group,
    reliable,
    smallest_place,
    unreached,
    with_groups,
)
from anomia.locate.curves import (
    ATTRIBUTION,
    DEPTH,
    HALF,
    MOVED,
    RANDOM,
)
from anomia.locate.leading import LEADING, needed_units, pick_leader, returned_by
from anomia.locate.located import TABLES, Located, LocateOptions
from anomia.locate.prepare import Subjects, open_arm, prepare
from anomia.locate.restore import (
    Mixture,
    all_budgets,
    at_random,
    by_depth,
    by_weight,
    cumulative_mixtures,
    read_all,
    single_mixtures,
)
from anomia.locate.store import attribute_cases
from anomia.locate.words import WORDS
from anomia.records import write_rows
from anomia.run_folder import RunFolder, locked
from anomia.running.progress import Progress


def locate_arm(run: Path, arm: str, options: LocateOptions, progress: Progress) -> Located:
    """Locates the damage of an arm, and stores the result in the run's folder.

    What an earlier call with the same settings finished is not repeated.

    Raises:
        AnomiaError: the arm can't be located; the message says why.
    """
    cell, name = open_arm(run, arm, progress, options.among)
    with locked(cell.path):
        folder = RunFolder(cell.path).located(name)
        began = time.monotonic()
        subjects = prepare(cell, name, progress, options, folder.parts)
        found = locate(subjects, options, progress, folder.parts, prepared=time.monotonic() - began)
        # A call that ends in between leaves no result, rather than the sentence of one and the tables of another.
        folder.result.path.unlink(missing_ok=True)
        for table in TABLES:
            frame: pl.DataFrame = getattr(found, table)
            write_rows(frame.iter_rows(named=True), folder.table(table), frame.schema)
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
    reached = {name: score for name, score in scores[ATTRIBUTION].items() if not math.isnan(score)}
    leaders = sorted(reached, key=lambda name: -reached[name])[: options.leaders]
    orders: dict[str, list[list[str]]] = {
        ATTRIBUTION: [by_weight(scores[ATTRIBUTION], pair.units)],
        MOVED: [by_weight(scores[MOVED], pair.units)],
        DEPTH: [by_depth(pair.units, pair.blocks)],
        RANDOM: [at_random(pair.units, options.seed, draw) for draw in range(options.draws)],
    }
    budgets = all_budgets(options.budgets, orders, LEADING, pair.units)
    mixtures = [
        Mixture(NOTHING, "", None, ()),
        Mixture(EVERYTHING, "", None, pair.names),
        *cumulative_mixtures(orders, pair.units, budgets),
        *single_mixtures(pair.units, pair.blocks, leaders),
    ]
    progress.stage(f"restoring weights of {subjects.arm}", len(mixtures) + len(LEADING) + 1)
    ends = read_all(reader, mixtures[:2], decide_cases)
    check_ends(with_groups(ends, decide_cases), WORDS[options.among])
    readings = with_groups(read_all(reader, mixtures, decide_cases, progress.advance), decide_cases)
    returned = returned_by(reader, [case for case in order_cases if case.candidate.group == "demoted"])
    known = moves_known(attribution)
    leader, picked = pick_leader(returned, orders, pair.units, budgets, known=known, advance=progress.advance)
    answered = answered_under(readings, leader, "demoted")
    place = smallest_place(answered, orders[leader][0], pair.units)
    if len(place) < len(pair.units) or len(pair.units) <= options.leaders:
        needed = needed_units(returned, place, tries=2 * options.leaders)
        last = with_groups(read_all(reader, [Mixture(PLACE, "", None, needed)], decide_cases), decide_cases)
        readings = pl.concat([readings, last])
        # Units that bring nothing back on the ordering items may still be needed for the others.
        if float(last.filter(pl.col("group") == "demoted")["correct"].mean()) >= HALF:  # type: ignore[arg-type]
            place = needed
    progress.advance()
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
        leader=leader,
        picked=picked,
        place=place,
    )


def _scores(found: Attribution, cases: Sequence[LocatedItem]) -> dict[str, dict[str, float]]:
    """The score of each unit under each order: the mean share over demoted items, and the mean norm of ΔX.

    Items whose shares don't add up give no order. Units that no gradient reaches have no share, and come last.
    """
    chosen = found.gold[of_group(cases, "demoted") & reliable(found, cases)]
    shares = np.where(unreached(found), np.nan, chosen.mean(axis=0))
    return {
        ATTRIBUTION: dict(zip(found.units, shares.tolist(), strict=True)),
        MOVED: dict(zip(found.units, np.sqrt((found.moved**2).mean(axis=0)).tolist(), strict=True)),
    }
