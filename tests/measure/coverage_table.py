"""Measures coverage over the whole grid, and false alarms, for docs/data/statistics/ and docs/statistics.md.

PYTHONPATH=src:tests python -m measure.coverage_table
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from anomia.measure.fates import FEWEST_BOTH_CORRECT

from . import tables
from .simulation import (
    BASES,
    STRUCTURES,
    Cell,
    Coverage,
    choice_beside,
    gap_coverage,
    grid,
    net_coverage,
    normalized_coverage,
    paired_coverage,
    rate_coverage,
)

SIZES = (20, 50, 200)
REPLICATIONS = 4_000
NET_COUNTED, NET_CHANGED, NET_FALLING = (0.1, 0.3, 0.5, 0.7), (0.05, 0.1, 0.3), (1.0, 0.7, 0.5)
FIGURES = ("raw drop", "normalized, floor 0", "normalized, floor 1/4", "gap", "rate", "net share")


class Row(NamedTuple):
    cell: Cell
    found: dict[str, Coverage]


def promised(cell: Cell, coverage: Coverage) -> bool:
    """93 % are promised where the cell allows it and base is not on the threshold of being tested at all."""
    return cell.promised and coverage.given >= 0.9


def measure(cell: Cell, replications: int = REPLICATIONS) -> Row:
    found = {"raw drop": paired_coverage(cell, replications)}
    for name, floor in (("normalized, floor 0", 0.0), ("normalized, floor 1/4", 0.25)):
        if cell.base - floor >= 0.1 - 1e-9:
            found[name] = normalized_coverage(cell, floor, replications)
    found["gap"] = gap_coverage(cell, choice_beside(cell), 0.25, replications)
    return Row(cell, found)


def measured(cells: Sequence[Cell]) -> Iterator[Row]:
    """The rows in their order, on all cores."""
    # Forked processes would share the state of BLAS's threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from pool.map(measure, cells)


def rate_cells() -> list[Cell]:
    """Truths of a rate: base is the rate, and nothing changes."""
    return [Cell(n, *structure, base, 0.0, 0.0) for n in SIZES for structure in STRUCTURES for base in BASES]


def rate_promised(cell: Cell) -> bool:
    """93 % are promised with 50 items and 10 in the rarer class."""
    return cell.n >= 50 and cell.n * min(cell.base, 1 - cell.base) >= 10


def net_cells() -> list[Cell]:
    """Truths of the net share: base is the share of items that count; at 0.5 for the worse it is 0."""
    cells = itertools.product(SIZES, STRUCTURES, NET_COUNTED, NET_CHANGED, NET_FALLING)
    return [
        cell
        for cell in (Cell(n, *structure, *truth) for n, structure, *truth in cells)
        if cell.possible and cell.n * cell.base >= FEWEST_BOTH_CORRECT
    ]


def write_coverage(
    rows: Sequence[Row], rates: Sequence[tuple[Cell, Coverage]], nets: Sequence[tuple[Cell, Coverage]]
) -> None:
    """Every cell, and the lowest and mean coverage of each figure where 93 % are promised."""
    found = [
        (name, cell, coverage, promised(cell, coverage))
        for cell, by_name in rows
        for name, coverage in by_name.items()
    ]
    found += [("rate", cell, coverage, rate_promised(cell)) for cell, coverage in rates]
    found += [("net share", cell, coverage, promised(cell, coverage)) for cell, coverage in nets]
    kept = {
        name: [each.covered for which, _, each, yes in found if which == name and yes] for name in FIGURES
    }
    tables.write(
        "coverage-promised",
        [
            {
                "figure": name,
                "cells": len(covered),
                "lowest": f"{min(covered):.3f}",
                "mean": f"{sum(covered) / len(covered):.3f}",
            }
            for name, covered in kept.items()
        ],
    )
    tables.write("coverage", [coverage_row(*each) for each in found])


def coverage_row(name: str, cell: Cell, coverage: Coverage, is_promised: bool) -> dict[str, str]:
    """A cell as a row of the CSV file. given_percent: of the studies, empty if all; covered is empty if none."""
    changes = name != "rate"
    return {
        "figure": name,
        "items": f"{cell.n}",
        "per_passage": f"{cell.cluster_size}",
        "icc": f"{cell.correlation:g}",
        "base": f"{cell.base:g}",
        "changed": f"{cell.discordance:g}" if changes else "",
        "worse": f"{cell.falling:g}" if changes else "",
        "covered": f"{coverage.covered:.3f}" if coverage.given else "",
        "given_percent": "" if coverage.given == 1 else f"{100 * coverage.given:.0f}",
        "promised": "yes" if is_promised else "no",
    }


def write_false_alarms() -> None:
    # Coverage is measured without what judges whole studies.
    from .null_studies import NULLS, false_alarms

    rows = []
    for null, cluster_size in itertools.product(NULLS, (1, 5)):
        items, open_, choice = (f"{value:g}" for value in null)
        given = {"items": items, "per_passage": f"{cluster_size}", "open": open_, "choice": choice}
        found = false_alarms(*null, cluster_size)
        rows.append(given | {name.replace(" ", "_"): tables.percent(share) for name, share in found.items()})
    tables.write("false-alarms", rows)


def main() -> None:
    start, rows = time.perf_counter(), []
    for row in measured(list(grid(SIZES))):
        rows.append(row)
        for name, found in row.found.items():
            if promised(row.cell, found) and found.covered < 0.93:
                print(f"below 93 %: {name} {found} {row.cell}", flush=True)
        if len(rows) % 20 == 0:
            print(f"{len(rows)} cells, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    rates = [(cell, rate_coverage(cell, REPLICATIONS)) for cell in rate_cells()]
    write_coverage(rows, rates, [(cell, net_coverage(cell, REPLICATIONS)) for cell in net_cells()])
    write_false_alarms()
    tables.main()


if __name__ == "__main__":
    main()
