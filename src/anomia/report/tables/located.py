"""Where the damage of an arm is, as tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import polars as pl

from anomia.locate.located import Located
from anomia.measure.rates import Estimate
from anomia.report.tables.table import Column, Table
from anomia.words import percent

ORDER_NAMES = {
    "attribution": "attribution",
    "output_change": "change of outputs, ‖ΔX‖",
    "depth": "depth",
    "random": "random",
}
SHOWN = 10


def located_tables(found: Located) -> Sequence[Table]:
    """All tables of a located arm, in reading order."""
    return [
        order_needs(found),
        restoration(found),
        *([both_ways(found)] if found.directions else []),
        leading(found),
    ]


def restoration(found: Located) -> Table:
    """How much of the weights each order needs, and what it brings back at each share."""
    curve, words = found.curve, found.words
    demoted, kept = (
        {
            (row["order"], row["share"]): Estimate(row["right"], row["low"], row["high"], row["items"], 0)
            for row in curve.filter(pl.col("group") == group).iter_rows(named=True)
        }
        for group in ("demoted", "kept")
    )
    rows = [
        (ORDER_NAMES[order], share, estimate, kept.get((order, share)))
        for (order, share), estimate in demoted.items()
        if 0 < share < 1
    ]
    return Table(
        "restoration",
        f"Base's weights put back into {found.arm}: {words.returned}, among those that gave no order",
        (
            Column("order", "order", "text"), Column("share", "weights\nback (%)", digits=1),
            Column("demoted", f"{words.demoted}\n{words.right} (%)"),
            Column("kept", f"{words.kept}\n{words.right} (%)"),
        ),
        rows,
        found.notes,
        keys=2,
        rules=[n for n, row in enumerate(rows) if n + 1 == len(rows) or rows[n + 1][0] != row[0]],
    )  # fmt: skip


def order_needs(found: Located) -> Table:
    """The share of the weights that brings half of the items back, by order, and the difference from attribution."""
    shares = ", ".join(percent(each) for each in found.options.budgets)
    return Table(
        "half_back",
        f"Smallest share of the differing weights tried that brings half of the {found.words.demoted} back",
        (
            Column("order", "order", "text"), Column("half", "weights (%)", digits=1),
            Column("more", "more than\nattribution (points)"),
            Column("gained", f"{found.words.many} that attribution\nbrings back more (points)"),
        ),
        [
            (ORDER_NAMES[name], half, found.ahead.get(name), found.gained.get(name))
            for name, half in found.halves.items()
        ],
        (f"the last column is a mean over sets of at most {shares} of the weights",),
    )  # fmt: skip


def both_ways(found: Located) -> Table:
    """What single blocks bring back alone, and lose alone: those with the largest sums of the two."""
    words = found.words

    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    rows = [
        (each.block, *(known(value) for value in each[1:]))
        for each in sorted(
            found.directions,
            key=lambda each: (-(known(each.answers_alone + each.answers_lost) or 0.0), each.block),
        )
    ]
    return Table(
        "single_blocks",
        "Single blocks: what base's weights in one alone bring back, and compressed weights in one alone lose (% of "
        f"the difference between the two models; {words.many} that gave no order)",
        (
            Column("block", "block", "count"),
            Column("answers_alone", f"{words.right},\nback"), Column("answers_lost", f"{words.right},\nlost"),
            Column("margin_alone", f"log-odds of {words.gold},\nback"),
            Column("margin_lost", f"log-odds of {words.gold},\nlost"),
            Column("rank_alone", f"median rank of {words.gold},\nblock back", "number", 1),
            Column("rank_lost", f"median rank of {words.gold},\nblock lost", "number", 1),
        ),
        rows,
        (f"the largest of {len(rows)} blocks; all are in located.json",) if len(rows) > SHOWN else (),
        on_screen=range(min(SHOWN, len(rows))),
    )  # fmt: skip


def leading(found: Located) -> Table:
    """The units that carry the most of the margin."""
    words = found.words
    rows = found.units.sort("share", descending=True, nulls_last=True).head(SHOWN)
    mine = found.items.filter(pl.col("half") == "order", pl.col("group") == "demoted")
    n = len(mine.filter(~pl.col("unreliable"))) or len(mine)
    alone = {
        name: (right, rank)
        for name, right, rank in found.readings.filter(
            pl.col("kind") == "matrix", pl.col("group") == "demoted"
        )
        .group_by("place")
        .agg(pl.col("correct").mean(), pl.col("rank").median())
        .iter_rows()
    }

    def estimate(row: dict[str, float], name: str) -> Estimate | float | None:
        if row[f"{name}_low"] is None:
            return row[name]
        return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], n, 0)

    return Table(
        "leading_weights",
        f"The weights that carry the most of the log-odds of {words.gold}, in nats",
        (
            Column("name", "weights", "text"), Column("size", "number", "count"),
            Column("share", words.gold, "number", 2), Column("control", words.control, "number", 2),
            Column("kept", words.kept, "number", 2),
            Column("alone", f"{words.right}\nalone (%)"),
            Column("rank", "rank\nalone", "number", 1),
        ),
        [
            (
                row["name"],
                row["weights"],
                *(estimate(row, name) for name in ("share", "control", "kept")),
                *alone.get(row["name"], (None, None)),
            )
            for row in rows.iter_rows(named=True)
        ],
        (
            f"a margin rewards one token over another; {words.many} that come back decide",
            "alone: with base's weights put back there only; the rank is a median",
        ),
    )  # fmt: skip
