"""Measures what verdicts and the gate conclude from studies of known truth, for docs/data/statistics/ and
docs/statistics.md.

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

from anomia.measure.gate import NET, SHOWN
from anomia.measure.outcomes import Outcome

from . import tables
from .tables import percent
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


def alike_rows(rows: Sequence[Row]) -> Iterator[dict[str, str]]:
    """How often a direction is concluded where there is none: the mean over the truths, and the most."""
    kinds = {"nothing": False, "equal shares, 0.03 to 0.35": True}
    for size, (name, lost), languages in itertools.product((1, 5), kinds.items(), LANGUAGES):
        found = [
            directional(row.found)
            for row in rows
            if row.truth.open_drop == row.truth.choice_drop
            and (row.truth.open_drop > 0) == lost
            and (row.design.languages, row.design.cluster_size) == (languages, size)
        ]
        if found:
            mean, most = percent(sum(found) / len(found)), percent(max(found))
            yield {
                "lost": name,
                "per_passage": f"{size}",
                "languages": f"{languages}",
                "mean": mean,
                "most": most,
            }


def apart_rows(rows: Sequence[Row]) -> Iterator[dict[str, str]]:
    """How often a direction that there is is concluded, and by which outcome."""
    for row in rows:
        open_, choice = row.truth[:2]
        if open_ == choice:
            continue
        if open_ < choice:
            kinds: tuple[tuple[Outcome, ...], ...] = (("reverse",),)
        elif choice < 0.05:
            kinds = (("illusion", "demotion"), ("illusion", "demotion", "mixed"))
        else:
            kinds = (("mixed",), ("illusion", "demotion", "mixed"))
        for meant in kinds:
            share = percent(sum(_share(row, outcome) for outcome in meant))
            yield {**_design(row), "found_as": ", ".join(meant), "share": share}


def outcome_row(row: Row) -> dict[str, str]:
    """How often each outcome is concluded."""
    named: tuple[Outcome, ...] = ("intact", "mixed", "loss", "reverse", "inconclusive")
    shares = {"illusion or demotion": demotions(row.found)}
    shares |= {name: _share(row, name) for name in named} | {"directional": directional(row.found)}
    return _design(row) | {name: percent(share) for name, share in shares.items()}


def _design(row: Row) -> dict[str, str]:
    size = {"per_passage": f"{row.design.cluster_size}", "languages": f"{row.design.languages}"}
    return _truth(row.truth) | size


def _truth(truth: Truth) -> dict[str, str]:
    names = ("lost_open", "lost_choice", "flips_open", "flips_choice")
    return {name: f"{value:g}" for name, value in zip(names, truth[:4], strict=True)}


def language_rows() -> Iterator[dict[str, str]]:
    """How often some language's verdict is directional or loss, where nothing is lost."""
    for languages, churn in itertools.product(LANGUAGES[1:], CHURNS[1:]):
        truth = Truth(0.0, 0.0, *churn)
        share = language_alarms(truth, Design(languages), FEWER_STUDIES, DIRECTIONAL | {"loss"})
        yield {"languages": f"{languages}", **_truth(truth), "share": percent(share)}


GATE_LOSSES = ((0.20, 0.02), (0.12, 0.02), (0.10, 0.10))
GATE_CHURNS = ((0.0, 0.0), (0.10, 0.10), (0.25, 0.125))
CHECKS = (NET, "gap", "open retained", SHOWN)
OLD_LIMIT, OLD_STUDIES = 0.15, 300


def gate_rows() -> Iterator[dict[str, str]]:
    """Which share of studies passes the gate's defaults, and how many fail on the plain dissociation rate."""
    losses = [Truth(*pair, *churn) for pair in GATE_LOSSES for churn in GATE_CHURNS]
    for languages, truth in itertools.product(LANGUAGES[1:], null_arms() + losses):
        design = Design(languages)
        passed = gate(truth, design, FEWER_STUDIES)
        assert set(passed.checks) <= set(CHECKS)
        shares = {name: passed.checks.get(name, 0.0) for name in CHECKS}
        shares |= {"all pass": passed.results.get("pass", 0.0), "some fails": passed.results.get("fail", 0.0)}
        plain = plain_rate_fails(truth, design, OLD_STUDIES, OLD_LIMIT) / OLD_STUDIES
        yield {
            "languages": f"{languages}",
            **_truth(truth),
            "base_choice": f"{truth.base_choice:g}",
            **{name: percent(share) for name, share in shares.items()},
            f"plain rate fails at {OLD_LIMIT:g}": percent(plain),
        }


def _share(row: Row, outcome: Outcome) -> float:
    return row.found[outcome] / row.found.total()


def main() -> None:
    start, rows = time.perf_counter(), []
    for row in measured(cells()):
        rows.append(row)
        print(f"{time.perf_counter() - start:.0f} s {row}", file=sys.stderr, flush=True)
    tables.write("no-direction", list(alike_rows(rows)))
    tables.write("directions", list(apart_rows(rows)))
    tables.write("verdicts", [outcome_row(row) for row in rows])
    tables.write("language-verdicts", list(language_rows()))
    tables.write("gate", list(gate_rows()))
    tables.main()


if __name__ == "__main__":
    main()
