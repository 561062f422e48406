"""The simulations of docs/statistics.md: every cell in docs/data/statistics/*.csv, and the summaries on the page.

    PYTHONPATH=src:tests python -m measure.tables

rewrites the summaries from the CSV files, which `coverage_table` and `verdict_table` write.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA = DOCS / "statistics.md", DOCS / "data" / "statistics"
Row = Mapping[str, str]


def write(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table's cells to its CSV file."""
    DATA.mkdir(parents=True, exist_ok=True)
    with (DATA / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(name: str) -> list[Row]:
    """The rows of a table's CSV file."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def percent(share: float) -> str:
    """A share as the CSV files have it: in per cent, with one decimal."""
    return f"{100 * share:.1f}"


def coverage() -> str:
    """Coverage of each figure: where it is promised, and in all other cells."""
    other = [row for row in read("coverage") if row["promised"] == "no"]
    lines = []
    for row in read("coverage-promised"):
        mine = [float(each["covered"]) for each in other if each["figure"] == row["figure"]]
        lines.append([*row.values(), f"{len(mine)}", f"{min(mine):.3f}", f"{median(mine):.3f}"])
    return _table(["figure", "promised cells", "lowest", "mean", "other cells", "lowest", "median"], lines)


def false_alarms() -> str:
    """How often studies without an effect see one, at most over the sizes of passages."""
    found: dict[tuple[str, ...], list[list[float]]] = {}
    for row in read("false-alarms"):
        size, _, *means_and_shares = row.values()
        key, shares = (size, *means_and_shares[:2]), means_and_shares[2:]
        found.setdefault(key, []).append([float(share) for share in shares])
    lines = [
        [*key, *(f"{max(shares):.1f} %" for shares in zip(*rows, strict=True))] for key, rows in found.items()
    ]
    head = ["items", "open", "choice", "accuracy changed", "open lost more items", "gap is not 0", "verdict"]
    return _table(head, lines)


def directions() -> str:
    """How often a direction is concluded: from the least to the most over numbers of flips and sizes of passages."""
    shares: dict[tuple[str, str], dict[str, list[str]]] = {}

    def add(lost: str, concluded: str, row: Row, share: str) -> None:
        shares.setdefault((lost, concluded), {}).setdefault(row["languages"], []).append(row[share])

    for row in read("verdicts"):
        if row["lost_open"] == row["lost_choice"]:
            add("nothing" if row["lost_open"] == "0" else "equal shares", "any direction", row, "directional")
    for row in read("language-verdicts"):
        add("nothing", "any direction or loss, in some language", row, "share")
    for row in read("directions"):
        add(_lost(row), row["found_as"], row, "share")
    sizes = sorted({size for found in shares.values() for size in found}, key=int)
    lines = [[*key, *(_range(found.get(size, [])) for size in sizes)] for key, found in shares.items()]
    return _table(["lost in open and choice", "concluded", *(f"{size} × 200" for size in sizes)], lines)


def gate() -> str:
    """What passes the gate and what fails: from the least to the most over the numbers of flips."""
    shares: dict[str, dict[str, list[Row]]] = {}
    for row in read("gate"):
        shares.setdefault(_lost(row), {}).setdefault(row["languages"], []).append(row)
    sizes = list(dict.fromkeys(size for found in shares.values() for size in found))
    columns = [(kind, size) for kind in ("all pass", "some fails") for size in sizes]
    lines = [
        [lost, *(_range([row[kind] for row in found[size]]) for kind, size in columns)]
        for lost, found in shares.items()
    ]
    return _table(["lost in open and choice", *(f"{kind}, {size} × 200" for kind, size in columns)], lines)


def _lost(row: Row) -> str:
    return "nothing" if row["lost_open"] == "0" else f"{row['lost_open']} and {row['lost_choice']}"


def _range(shares: Sequence[str]) -> str:
    if not shares:
        return "–"
    low, high = min(shares, key=float), max(shares, key=float)
    return f"{low} %" if low == high else f"{low}–{high} %"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(row) + " |" for row in (head, *lines)]
    return "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:]])


# By the marks of the page that enclose each.
SUMMARIES: dict[str, Callable[[], str]] = {
    "coverage": coverage,
    "false alarms": false_alarms,
    "directions": directions,
    "gate": gate,
}


def with_summaries(page: str) -> str:
    """The text of the page with every summary between its marks."""
    for part, summary in SUMMARIES.items():
        begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
        head, tail = page.split(begin)[0], page.split(end)[1]
        page = f"{head}{begin}\n{summary()}\n{end}{tail}"
    return page


def main() -> None:
    """Rewrite the summaries on the page."""
    PAGE.write_text(with_summaries(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
