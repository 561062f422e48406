"""Measures coverage over the whole grid, and false alarms, and writes the tables of docs/statistics.md.

PYTHONPATH=src:tests python -m measure.coverage_table
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from anomia.measure.fates import FEWEST_BOTH_CORRECT

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

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
SIZES = (20, 50, 200)
REPLICATIONS = 4_000
NET_COUNTED, NET_CHANGED, NET_FALLING = (0.1, 0.3, 0.5, 0.7), (0.05, 0.1, 0.3), (1.0, 0.7, 0.5)
MEASURES = ("raw drop", "normalized, floor 0", "normalized, floor 1/4", "gap")


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


def rate_rows() -> list[tuple[Cell, Coverage]]:
    cells = [Cell(n, *structure, base, 0.0, 0.0) for n in SIZES for structure in STRUCTURES for base in BASES]
    return [(cell, rate_coverage(cell, REPLICATIONS)) for cell in cells]


def net_cells() -> list[Cell]:
    """Truths of the net share: base is the share of items that count; at 0.5 for the worse it is 0."""
    cells = itertools.product(SIZES, STRUCTURES, NET_COUNTED, NET_CHANGED, NET_FALLING)
    return [
        cell
        for cell in (Cell(n, *structure, *truth) for n, structure, *truth in cells)
        if cell.possible and cell.n * cell.base >= FEWEST_BOTH_CORRECT
    ]


def net_rows() -> list[tuple[Cell, Coverage]]:
    return [(cell, net_coverage(cell, REPLICATIONS)) for cell in net_cells()]


def tables(rows: list[Row], rates: list[tuple[Cell, Coverage]], nets: list[tuple[Cell, Coverage]]) -> str:
    lines = ["### Where 93 % are promised", "", "| figure | cells | lowest | mean |", "|---|---|---|---|"]
    for name in MEASURES:
        kept = [
            row.found[name].covered
            for row in rows
            if name in row.found and promised(row.cell, row.found[name])
        ]
        lines.append(f"| {name} | {len(kept)} | {min(kept):.3f} | {sum(kept) / len(kept):.3f} |")
    kept = [
        found.covered
        for cell, found in rates
        if cell.n >= 50 and cell.n * min(cell.base, 1 - cell.base) >= 10
    ]
    lines.append(f"| rate | {len(kept)} | {min(kept):.3f} | {sum(kept) / len(kept):.3f} |")
    kept = [found.covered for cell, found in nets if promised(cell, found)]
    lines.append(f"| net share | {len(kept)} | {min(kept):.3f} | {sum(kept) / len(kept):.3f} |")
    lines += ["", "### Everywhere else", ""]
    lines.append("In brackets: per cent of studies that give the figure, if not all.")
    lines += ["", "| n | per passage | ICC | base | changed | for the worse | " + " | ".join(MEASURES) + " |"]
    lines.append("|" + "---|" * (6 + len(MEASURES)))
    for cell, found in rows:
        shown = [
            "" if name not in found or promised(cell, found[name]) else _show(found[name])
            for name in MEASURES
        ]
        if any(shown):
            truth = f"| {cell.n} | {cell.cluster_size} | {cell.correlation:g} | {cell.base:g} "
            lines.append(f"{truth}| {cell.discordance:g} | {cell.falling:g} | " + " | ".join(shown) + " |")
    lines += [
        "",
        "### Rates",
        "",
        "| n | per passage | ICC | " + " | ".join(f"{base:g}" for base in BASES) + " |",
    ]
    lines.append("|" + "---|" * (3 + len(BASES)))
    for start in range(0, len(rates), len(BASES)):
        cell = rates[start][0]
        shown = [f"{found.covered:.3f}" for _, found in rates[start : start + len(BASES)]]
        lines.append(f"| {cell.n} | {cell.cluster_size} | {cell.correlation:g} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, *_net_lines(nets)])


def _net_lines(nets: list[tuple[Cell, Coverage]]) -> list[str]:
    """The net share by how many items change, and how many of them for the worse: at 0.5 the truth is 0."""
    truths = list(itertools.product(NET_CHANGED, NET_FALLING))
    heads = " | ".join(f"{changed:g}, {falling:g}" for changed, falling in truths)
    lines = [
        "",
        "### Net shares",
        "",
        "Columns: the share of items that change, and the share of those that fall. At 0.5 the truth is 0.",
        "",
        f"| n | per passage | ICC | counted | {heads} |",
        "|" + "---|" * (4 + len(truths)),
    ]
    known = dict(nets)
    for n, structure, counted in itertools.product(SIZES, STRUCTURES, NET_COUNTED):
        row = [known.get(Cell(n, *structure, counted, *truth)) for truth in truths]
        if any(row):
            shown = " | ".join("" if found is None else _show(found) for found in row)
            lines.append(f"| {n} | {structure[0]} | {structure[1]:g} | {counted:g} | {shown} |")
    return lines


def _show(coverage: Coverage) -> str:
    if coverage.given == 0:
        return "–"
    return f"{coverage.covered:.3f}" + ("" if coverage.given == 1 else f" ({100 * coverage.given:.0f})")


def main() -> None:
    start, rows = time.perf_counter(), []
    for row in measured(list(grid(SIZES))):
        rows.append(row)
        for name, found in row.found.items():
            if promised(row.cell, found) and found.covered < 0.93:
                print(f"below 93 %: {name} {found} {row.cell}", flush=True)
        if len(rows) % 20 == 0:
            print(f"{len(rows)} cells, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    write("coverage", tables(rows, rate_rows(), net_rows()))
    write("nulls", null_table())


def null_table() -> str:
    # Coverage is measured without what judges whole studies.
    from .null_studies import NULLS, false_alarms

    lines = [
        "| items | per passage | open | choice | accuracy | open lost more items | gap | verdict |",
        "|" + "---|" * 8,
    ]
    for null in NULLS:
        for cluster_size in (1, 5):
            shown = [f"{100 * share:.1f} %" for share in false_alarms(*null, cluster_size).values()]
            n, *means = (f"{value:g}" for value in null)
            lines.append("| " + " | ".join([n, str(cluster_size), *means, *shown]) + " |")
    return "\n".join(lines)


def write(part: str, text: str) -> None:
    """Put a table between its marks on the page."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(begin)[0], page.split(end)[1]
    PAGE.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
