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

from anomia.measure.outcomes import Outcome

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


def alike_table(rows: Sequence[Row]) -> str:
    """How often a direction is concluded where there is none: the mean over the truths, and the most."""
    kinds = {"nothing": 0.0, "equal shares, 0.03 to 0.35": 1.0}
    lines = [
        "| lost | per passage | " + " | ".join(f"{languages} × 200" for languages in LANGUAGES) + " |",
        "|" + "---|" * (2 + len(LANGUAGES)),
    ]
    for size, (name, lost) in itertools.product((1, 5), kinds.items()):
        shown = []
        for languages in LANGUAGES:
            found = [
                directional(row.found)
                for row in rows
                if row.truth.open_drop == row.truth.choice_drop
                and (row.truth.open_drop > 0) == (lost > 0)
                and (row.design.languages, row.design.cluster_size) == (languages, size)
            ]
            shown.append(
                f"{_percent(sum(found) / len(found))}, at most {_percent(max(found))}" if found else "–"
            )
        lines.append(f"| {name} | {size} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def apart_table(rows: Sequence[Row]) -> str:
    """How often a direction that there is is concluded, and by which outcome."""
    lines = [
        "| lost, open | choice | flips, open | choice | per passage | found as | "
        + " | ".join(f"{languages} × 200" for languages in LANGUAGES)
        + " |",
        "|" + "---|" * (6 + len(LANGUAGES)),
    ]
    together: dict[tuple[float, ...], dict[int, Row]] = {}
    for row in rows:
        if row.truth.open_drop != row.truth.choice_drop:
            together.setdefault((*row.truth[:4], row.design.cluster_size), {})[row.design.languages] = row
    for key, by_size in together.items():
        if key[0] < key[1]:
            kinds = {"reverse": ("reverse",)}
        elif key[1] < 0.05:
            kinds = {
                "illusion or demotion": ("illusion", "demotion"),
                "these or mixed": ("illusion", "demotion", "mixed"),
            }
        else:
            kinds = {"mixed": ("mixed",), "mixed, illusion or demotion": ("illusion", "demotion", "mixed")}
        for name, outcomes_meant in kinds.items():
            shown = [
                _percent(sum(_share(by_size[size], each) for each in outcomes_meant))
                if size in by_size
                else "–"
                for size in LANGUAGES
            ]
            truth = " | ".join(f"{value:g}" for value in key)
            lines.append(f"| {truth} | {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


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


def main() -> None:
    start, rows = time.perf_counter(), []
    for row in measured(cells()):
        rows.append(row)
        print(f"{time.perf_counter() - start:.0f} s {row}", file=sys.stderr, flush=True)
    write("no direction", alike_table(rows))
    write("a direction", apart_table(rows))
    write("every verdict", table(rows))
    write("language verdicts", language_table())
    write("gate", gate_table())


if __name__ == "__main__":
    main()
