"""How much of what compression took is given back by a repair."""

from __future__ import annotations

from collections import Counter

from anomia.measure.frame import POOLED
from anomia.measure.repaired import HALF, UNSEEN
from anomia.measure.results import Results
from anomia.probes import short
from anomia.report.tables.table import ARM, LANGUAGE, Column, Table


def repaired(results: Results) -> Table:
    """By repaired arm, question form and language: the three accuracies, and the share of the loss given back."""
    rows = results.repaired
    return Table(
        "repaired",
        "How much a repair gives back",
        (
            ARM, Column("format", "format", "text"), LANGUAGE, Column("n", "items", "count"),
            Column("base", "base\n(%)"), Column("compressed", "compressed\n(%)"),
            Column("repaired", "repaired\n(%)"), Column("change", "change\n(points)"),
            Column("returned", "given back", "count"), Column("spoiled", "lost anew", "count"),
            Column("share_repaired", "share of the loss\ngiven back (%)"),
        ),
        [
            (
                row.arm, short(row.probe), row.scope, row.n, row.base, row.compressed, row.repaired, row.change,
                row.returned, row.spoiled, row.estimate or None,
            )
            for row in rows
        ],
        [
            "share of the loss given back: (repaired − compressed)/(base − compressed) on the same items; not given "
            "where compression may have taken nothing. given back, lost anew: of what base answers",
            *_sentences(results),
        ],
        keys=3,
        rules=[
            place
            for place, row in enumerate(rows)
            if place + 1 == len(rows) or rows[place + 1][:3] != row[:3]
        ],
    )  # fmt: skip


def _sentences(results: Results) -> list[str]:
    """For each repaired arm, what may be said of free-form answers over all languages."""
    found = []
    for row in results.repaired:
        unseen = row.scope.startswith(UNSEEN)
        if (row.scope != POOLED and not unseen) or row.probe != "open":
            continue
        if row.estimate is None:
            says = "compression took too little for certain to say what share is given back"
        elif row.half_is_back:
            says = f"at least half of the loss is given back: {_percent(row.estimate.low)} or more"
        elif row.estimate.low > 0:
            says = f"part of the loss is given back; that it is {HALF:.0%} isn't shown"
        else:
            says = "that anything is given back isn't shown"
        where = (
            f" in languages that it wasn't calibrated on ({row.scope.removeprefix(UNSEEN)})" if unseen else ""
        )
        found.append(f"{row.arm}, against {row.compressed_arm}{where}: {says}")
    compared = dict.fromkeys((row.compressed_arm, row.arm) for row in results.repaired)
    repairs = Counter(compressed for compressed, _ in compared)
    return found + [
        f"{count} repairs of {arm} were compared on these items, so the best of them looks better than it is: measure "
        "the one that you choose on other questions (anomia run --not-in with this run)"
        for arm, count in repairs.items()
        if count > 1
    ]


def _percent(share: float) -> str:
    return f"{share:.0%}"
