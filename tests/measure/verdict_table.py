"""Measures what verdicts and the gate conclude from studies of known truth, and writes the tables of docs/statistics.md.

PYTHONPATH=src:tests python -m measure.verdict_table
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from anomia.measure.verdict import Outcome

from .coverage_table import write
from .uniform_gate import gate, null_arms, plain_rate_fails
from .uniform_studies import (
    DIRECTIONAL,
    Design,
    Truth,
    demotions,
    directional,
    language_alarms,
    outcomes,
)

STUDIES = 2_000
# Of those that take longest.
FEWER_STUDIES = 1_000
LANGUAGES = (1, 4, 9)
UNIFORM = (0.03, 0.05, 0.08, 0.12, 0.20, 0.35)
DEMOTION = ((0.20, 0.02), (0.12, 0.02), (0.20, 0.10))
REVERSE = ((0.02, 0.20),)
# Share of items that flip besides in open and in choice: base right in 90 % of choice allows no more than these.
CHURNS = ((0.0, 0.0), (0.10, 0.10), (0.25, 0.15))


class Row(NamedTuple):
    truth: Truth
    design: Design
    found: Counter[Outcome]


def cells() -> list[tuple[Truth, Design]]:
    drops = [(0.0, 0.0), *((drop, drop) for drop in UNIFORM), *DEMOTION, *REVERSE]
    own = [
        (Truth(*pair, *churn), Design(languages))
        for pair, churn, languages in itertools.product(drops, CHURNS, LANGUAGES)
        if (*pair, *churn) != (0.0, 0.0, 0.0, 0.0)
    ]
    shared = [
        (Truth(*pair, *CHURNS[1]), Design(languages, cluster_size=5, correlation=0.2))
        for pair, languages in itertools.product(drops, LANGUAGES[:2])
    ]
    return own + shared


def measure(cell: tuple[Truth, Design]) -> Row:
    return Row(*cell, outcomes(*cell, STUDIES))


def measured(todo: Sequence[tuple[Truth, Design]]) -> Iterator[Row]:
    """The rows in their order, on all cores."""
    # Forked processes would share the state of BLAS's threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from pool.map(measure, todo)


def summary(rows: Sequence[Row]) -> str:
    lines = [
        "| truth | studies of | directional, mean | most | illusion or demotion | reverse |",
        "|---|---|---|---|---|---|",
    ]
    for languages in LANGUAGES:
        for name, kept in _groups([row for row in rows if row.design.languages == languages]):
            shares = [directional(row.found) for row in kept]
            found = [demotions(row.found) for row in kept]
            reverse = [_share(row, "reverse") for row in kept]
            lines.append(
                f"| {name} | {languages} × 200 | {_percent(sum(shares) / len(shares))} | {_percent(max(shares))} "
                f"| {_range(found)} | {_range(reverse)} |"
            )
    return "\n".join(lines)


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by what is true: nothing lost, equal shares lost, and each of the other pairs."""
    together: dict[str, list[Row]] = {}
    for row in rows:
        one, other = row.truth[:2]
        name = f"open {one:g}, choice {other:g}"
        if one == other:
            name = "equal losses, 0.03 to 0.35" if one else "nothing lost"
        together.setdefault(name, []).append(row)
    yield from together.items()


def table(rows: Sequence[Row]) -> str:
    named: tuple[Outcome, ...] = ("intact", "mixed", "loss", "reverse", "inconclusive")
    lines = [
        "| lost, open | choice | flips, open | choice | per passage | studies of | illusion or demotion | "
        + " | ".join(named)
        + " | directional |",
        "|" + "---|" * (8 + len(named)),
    ]
    for row in rows:
        truth = " | ".join(f"{value:g}" for value in row.truth[:4])
        shares = [demotions(row.found), *(_share(row, name) for name in named), directional(row.found)]
        size = f"{row.design.cluster_size} | {row.design.languages} × {row.design.items}"
        lines.append(f"| {truth} | {size} | " + " | ".join(map(_percent, shares)) + " |")
    return "\n".join(lines)


def language_table() -> str:
    lines = [
        "| languages | flips, open | choice | some language's verdict is directional or loss |",
        "|---|---|---|---|",
    ]
    for languages, churn in itertools.product(LANGUAGES[1:], CHURNS[1:]):
        share = language_alarms(
            Truth(0.0, 0.0, *churn), Design(languages), FEWER_STUDIES, DIRECTIONAL | {"loss"}
        )
        lines.append(f"| {languages} | {churn[0]:g} | {churn[1]:g} | {_percent(share)} |")
    return "\n".join(lines)


GATE_LOSSES = ((0.20, 0.02), (0.12, 0.02), (0.10, 0.10))
GATE_CHURNS = ((0.0, 0.0), (0.10, 0.10), (0.25, 0.125))
OLD_LIMIT, OLD_STUDIES = 0.15, 300


def gate_table() -> str:
    """Which share of studies passes the gate's defaults, and how many fail on the plain dissociation rate."""
    losses = [Truth(*pair, *churn) for pair in GATE_LOSSES for churn in GATE_CHURNS]
    names: list[str] = []
    lines = []
    for languages, truth in itertools.product(LANGUAGES[1:], null_arms() + losses):
        design = Design(languages)
        passed = gate(truth, design, FEWER_STUDIES)
        names = names or list(passed.checks)
        shares = [passed.checks.get(name, 0.0) for name in names]
        shares += [passed.results.get(result, 0.0) for result in ("pass", "fail")]
        plain = plain_rate_fails(truth, design, OLD_STUDIES, OLD_LIMIT) / OLD_STUDIES
        values = " | ".join(f"{value:g}" for value in (*truth[:4], truth.base_choice))
        lines.append(
            f"| {languages} × 200 | {values} | " + " | ".join(map(_percent, [*shares, plain])) + " |"
        )
    head = ["studies of", "lost, open", "choice", "flips, open", "choice", "base, choice", *names]
    head += ["all pass", "some fails", f"plain rate fails at {OLD_LIMIT:g}"]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def _share(row: Row, outcome: Outcome) -> float:
    return row.found[outcome] / row.found.total()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(shares: Sequence[float]) -> str:
    low, high = f"{100 * min(shares):.1f}", _percent(max(shares))
    return high if f"{low} %" == high else f"{low} to {high}"


def main() -> None:
    start, rows = time.perf_counter(), []
    for row in measured(cells()):
        rows.append(row)
        print(f"{time.perf_counter() - start:.0f} s {row}", file=sys.stderr, flush=True)
    write("verdicts", summary(rows))
    write("every verdict", table(rows))
    write("language verdicts", language_table())
    write("gate", gate_table())


if __name__ == "__main__":
    main()
